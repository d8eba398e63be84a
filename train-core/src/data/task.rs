//! Generated tasks: endless problems whose answers are known.

use rand::Rng;

/// Names of the built-in tasks.
pub const TASKS: [&str; 5] = ["reverse", "sort", "add", "modular", "tool"];

/// A generated task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Digits backwards: `4071=` → `1704`.
    Reverse,
    /// Digits in order: `4071=` → `0147`.
    Sort,
    /// Sum of two numbers, with leading zeros: `27+58=` → `085`.
    Add,
    /// `a*b+c mod m`, all of the level's digits: `7*5+3%9=` → `2`.
    Modular,
    /// A tool call in JSON: `add 3 14` → `{"name":"add","args":[3,14]}`.
    Tool,
}

impl Task {
    /// The task of a name in [`TASKS`].
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        match name {
            "reverse" => Some(Self::Reverse),
            "sort" => Some(Self::Sort),
            "add" => Some(Self::Add),
            "modular" => Some(Self::Modular),
            "tool" => Some(Self::Tool),
            _ => None,
        }
    }

    /// Every character of its prompts and answers.
    #[must_use]
    pub fn alphabet(self) -> &'static str {
        match self {
            Self::Reverse | Self::Sort => "0123456789=",
            Self::Add => "0123456789+=",
            Self::Modular => "0123456789*+%=",
            Self::Tool => "0123456789 abcdefghijklmnopqrstuvwxyz{}[]\":,=",
        }
    }

    /// A problem of `size` digits: prompt and answer.
    #[must_use]
    pub fn generate(self, size: u32, rng: &mut impl Rng) -> (String, String) {
        let mut digits =
            |n: u32| -> String { (0..n).map(|_| char::from(b'0' + rng.random_range(0..10u8))).collect() };
        match self {
            Self::Reverse => {
                let text = digits(size);
                let answer = text.chars().rev().collect();
                (format!("{text}="), answer)
            }
            Self::Sort => {
                let text = digits(size);
                let mut sorted: Vec<char> = text.chars().collect();
                sorted.sort_unstable();
                (format!("{text}="), sorted.into_iter().collect())
            }
            Self::Add => {
                let (a, b) = (digits(size), digits(size));
                let answer = add(&a, &b);
                (format!("{a}+{b}="), answer)
            }
            Self::Modular => {
                let size = size.min(9);
                let mut number = |low: u64| rng.random_range(low..10u64.pow(size));
                let (a, b, c, m) = (number(0), number(0), number(0), number(2));
                (format!("{a}*{b}+{c}%{m}="), ((a * b + c) % m).to_string())
            }
            Self::Tool => {
                let name = ["add", "mul", "max"][rng.random_range(0..3)];
                let args: Vec<String> =
                    (0..2).map(|_| rng.random_range(0..10u64.pow(size.min(9))).to_string()).collect();
                (
                    format!("{name} {}=", args.join(" ")),
                    format!("{{\"name\":\"{name}\",\"args\":[{}]}}", args.join(",")),
                )
            }
        }
    }
}

/// Sum of two numbers of equal length, one digit longer.
fn add(a: &str, b: &str) -> String {
    let mut carry = 0;
    let mut sum: Vec<char> = a
        .bytes()
        .zip(b.bytes())
        .rev()
        .map(|(a, b)| {
            let digit = (a - b'0') + (b - b'0') + carry;
            carry = digit / 10;
            char::from(b'0' + digit % 10)
        })
        .collect();
    sum.push(char::from(b'0' + carry));
    sum.into_iter().rev().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rollout_engine::random::{Stream, keyed_rng};

    #[test]
    fn answers_are_right_and_within_the_alphabet() {
        for name in TASKS {
            let task = Task::by_name(name).unwrap();
            for size in 1..7 {
                let (prompt, answer) = task.generate(size, &mut keyed_rng(3, Stream::Data, [size.into(), 1]));
                assert!(
                    prompt.chars().chain(answer.chars()).all(|c| task.alphabet().contains(c)),
                    "{prompt}{answer}"
                );
                let question = prompt.trim_end_matches('=');
                match task {
                    Task::Reverse => assert_eq!(answer.chars().rev().collect::<String>(), question),
                    Task::Sort => {
                        assert!(answer.as_bytes().is_sorted());
                        assert_eq!(answer.len(), question.len());
                    }
                    Task::Add => {
                        let (a, b) = question.split_once('+').unwrap();
                        assert_eq!(
                            a.parse::<u64>().unwrap() + b.parse::<u64>().unwrap(),
                            answer.parse::<u64>().unwrap()
                        );
                        assert_eq!(answer.len(), a.len() + 1);
                    }
                    Task::Modular => {
                        let parts: Vec<u64> =
                            question.split(['*', '+', '%']).map(|n| n.parse().unwrap()).collect();
                        assert_eq!(
                            (parts[0] * parts[1] + parts[2]) % parts[3],
                            answer.parse::<u64>().unwrap()
                        );
                    }
                    Task::Tool => {
                        let call: serde_json::Value = serde_json::from_str(&answer).unwrap();
                        let words: Vec<&str> = question.split(' ').collect();
                        assert_eq!(call["name"], words[0]);
                        assert_eq!(call["args"][1].to_string(), words[2]);
                    }
                }
            }
        }
    }
}
