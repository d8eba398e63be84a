//! Generated tasks: endless problems whose answers are known.

use rand::Rng;

use super::shapes::Scene;

/// Names of the built-in tasks.
pub const TASKS: [&str; 7] = ["reverse", "sort", "add", "modular", "tool", "arithmetic", "shapes"];

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
    /// A story with two numbers, for models that read English: `Ann has 3 apples and buys 4 more. …` → `7`.
    Arithmetic,
    /// Shapes in a picture, for models that see: what is where, or where is what (`data/shapes.rs`).
    Shapes,
}

/// Stories by what they ask for: `{a}` and `{b}` are numbers, `{who}` a name, `{what}` a thing.
const SUMS: [&str; 3] = [
    "{who} has {a} {what} and buys {b} more. How many {what} does {who} have now?",
    "There are {a} {what} in one box and {b} {what} in another. How many {what} are there in all?",
    "{who} found {a} {what} in the morning and {b} {what} in the evening. How many {what} did {who} find?",
];
const DIFFERENCES: [&str; 3] = [
    "{who} had {a} {what} and gave {b} of them away. How many {what} are left?",
    "A shop has {a} {what} and sells {b} of them. How many {what} remain?",
    "{who} needs {a} {what} and has {b}. How many more {what} does {who} need?",
];
const PRODUCTS: [&str; 2] = [
    "There are {a} bags with {b} {what} in each. How many {what} are there in all?",
    "{who} buys {b} {what} every day for {a} days. How many {what} does {who} buy?",
];
const NAMES: [&str; 8] = ["Ann", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gina", "Hugo"];
const THINGS: [&str; 8] = ["apples", "books", "coins", "eggs", "marbles", "pens", "shells", "stamps"];

/// A story, and the number it asks for. Differences are never below 0.
fn story(size: u32, rng: &mut impl Rng) -> (String, u64) {
    let limit = 10u64.pow(size.min(9));
    let (x, y) = (rng.random_range(2..limit), rng.random_range(2..limit));
    let (stories, a, b, answer) = match rng.random_range(0..3) {
        0 => (&SUMS[..], x, y, x + y),
        1 => (&DIFFERENCES[..], x.max(y), x.min(y), x.abs_diff(y)),
        _ => (&PRODUCTS[..], x, y, x * y),
    };
    let mut pick = |list: &[&'static str]| list[rng.random_range(0..list.len())];
    let (story, who, what) = (pick(stories), pick(&NAMES), pick(&THINGS));
    let text = story.replace("{a}", &a.to_string()).replace("{b}", &b.to_string());
    (text.replace("{who}", who).replace("{what}", what), answer)
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
            "arithmetic" => Some(Self::Arithmetic),
            "shapes" => Some(Self::Shapes),
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
            Self::Shapes => Scene::ALPHABET,
            Self::Arithmetic => "0123456789 ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz.?",
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
            Self::Shapes => {
                let scene = Scene::draw(size, rng);
                (scene.to_string(), scene.answer())
            }
            Self::Arithmetic => {
                let (text, answer) = story(size, rng);
                (text, answer.to_string())
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

    /// Whether a question was made from a story: the words that are not filled in are the same.
    fn same_story(story: &str, question: &str) -> bool {
        let (story, question): (Vec<&str>, Vec<&str>) =
            (story.split(' ').collect(), question.split(' ').collect());
        story.len() == question.len() && story.iter().zip(question).all(|(s, q)| s.contains('{') || *s == q)
    }

    #[test]
    fn answers_are_right_and_within_the_alphabet() {
        for name in TASKS {
            let task = Task::by_name(name).unwrap();
            for (size, draw) in (1..7).flat_map(|size| (0..20).map(move |draw| (size, draw))) {
                let (prompt, answer) =
                    task.generate(size, &mut keyed_rng(3, Stream::Data, [size.into(), draw]));
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
                    Task::Arithmetic => {
                        let numbers: Vec<i64> = question
                            .split(|c: char| !c.is_ascii_digit())
                            .filter_map(|n| n.parse().ok())
                            .collect();
                        let [a, b] = numbers[..] else { panic!("{question}") };
                        let right = if SUMS.iter().any(|s| same_story(s, question)) {
                            a + b
                        } else if DIFFERENCES.iter().any(|s| same_story(s, question)) {
                            a - b
                        } else {
                            a * b
                        };
                        assert_eq!(right.to_string(), answer, "{question}");
                        assert!(!question.contains('{'), "{question}");
                    }
                    Task::Shapes => {
                        let scene: Scene = prompt.parse().unwrap();
                        assert_eq!(scene.answer(), answer);
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
