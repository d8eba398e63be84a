//! Rewards about calls of tools (`toolrm`): of a policy by its calls, of a judge by its choices.

use serde_json::Value;
use toolrm::critique::{Reading, Variant};
use toolrm::json::{self, Dialect};
use toolrm::record::Kind;
use toolrm::reward::{CallPart, CallTask, CritiqueReward, RewardIn, reward_calls};

use super::part::Said;
use crate::types::Scored;

fn answer<'a>(s: &Scored<'a>) -> Result<&'a str, String> {
    s.prompt.answer.as_deref().ok_or_else(|| format!("prompt {} has no answer", s.prompt.id))
}

/// `tool_score`: the answer is `{"gold": [{"name", "arguments"}, …], "tools": […]?, "format": "hermes"?, "bfcl": {…}?}`.
pub(super) struct ToolScore {
    measure: CallPart,
}

impl ToolScore {
    pub(super) fn new(measure: &str) -> Result<Self, String> {
        let measure = CallPart::from_name(measure).ok_or_else(|| {
            let known: Vec<&str> = CallPart::ALL.iter().map(|p| p.name()).collect();
            format!("measure is {measure:?}, expected one of {}", known.join(", "))
        })?;
        Ok(Self { measure })
    }

    pub(super) fn score(&self, s: &Scored<'_>) -> Result<Said, String> {
        let text = answer(s)?;
        let fault = |e: &dyn std::fmt::Display| format!("the answer of prompt {}: {e}", s.prompt.id);
        let task = json::parse(text, Dialect::Python).map_err(|e| fault(&e))?;
        let task = CallTask::from_val(&task).map_err(|e| fault(&e))?;
        if self.measure == CallPart::Bfcl && task.bfcl.is_none() {
            return Err(fault(&"measure = \"bfcl\" needs its `bfcl`"));
        }
        let out = reward_calls(&[RewardIn { task: &task, response: s.response }], &[(self.measure, 1.0)]);
        let value = f64::from(out.first().map_or(0.0, |out| out.total));
        // The whole reward for the calls; form and schema say nothing of whether they are right.
        let most = match self.measure {
            CallPart::Rule | CallPart::Bfcl => Some(1.0),
            CallPart::ToolRl => Some(3.0),
            CallPart::Schema | CallPart::Format => None,
        };
        Ok(Said { exact: most.map(|most| value >= most), ..value.into() })
    }
}

/// `critique`: prompts are critique tasks, the answer is their label. The columns `kind` (default `pairwise`) and `n` (default
/// 2) of the data say what was asked.
pub(super) struct Critique {
    reward: CritiqueReward,
}

/// The variant of a name.
pub(super) fn variant_of(name: Option<&str>) -> Result<Variant, String> {
    let Some(name) = name else { return Ok(Variant::default()) };
    Variant::from_name(name).ok_or_else(|| format!("variant is {name:?}, expected think, no_think or bare"))
}

impl Critique {
    pub(super) fn new(variant: Option<&str>, bonus: f64) -> Result<Self, String> {
        if !(0.0..=0.1).contains(&bonus) {
            return Err(format!("bonus is {bonus}, expected 0 to 0.1"));
        }
        let reading = Reading { form: variant_of(variant)?.into(), ..Reading::default() };
        Ok(Self { reward: CritiqueReward { reading, format_bonus: bonus } })
    }

    pub(super) fn score(&self, s: &Scored<'_>) -> Result<Said, String> {
        let label = answer(s)?;
        let kind = match s.prompt.columns.get("kind") {
            None => Kind::Pairwise,
            Some(kind) => kind.as_str().and_then(Kind::from_name).ok_or_else(|| {
                format!(
                    "column `kind` of prompt {} is {kind}, expected pairwise, pointwise or bon",
                    s.prompt.id
                )
            })?,
        };
        let n = match s.prompt.columns.get("n").map(Value::as_u64) {
            None => 2,
            Some(n) => n
                .and_then(|n| u32::try_from(n).ok())
                .filter(|n| *n > 0)
                .ok_or_else(|| format!("column `n` of prompt {} is no count of responses", s.prompt.id))?,
        };
        let score = self.reward.score(s.response, kind, n, label);
        Ok(Said { exact: Some(score.correct), ..score.reward.into() })
    }
}
