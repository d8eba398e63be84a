//! What breaks a rule of the sheet, with its right form.

use super::pattern::Pattern;
use super::sheet::FIXED;
use crate::key::DetRng;
use crate::names::NameKind;
use crate::prose::capital;

const SMALL: [&str; 8] = ["two", "three", "four", "five", "six", "seven", "eight", "nine"];
const TEENS: [&str; 10] = [
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
];
const TENS: [&str; 8] = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"];
const ORDINALS: [(&str, &str); 9] = [
    ("1st", "first"),
    ("2nd", "second"),
    ("3rd", "third"),
    ("4th", "fourth"),
    ("5th", "fifth"),
    ("6th", "sixth"),
    ("7th", "seventh"),
    ("8th", "eighth"),
    ("9th", "ninth"),
];
const MONTHS: [(&str, &str); 7] = [
    ("January", "Jan."),
    ("February", "Feb."),
    ("August", "Aug."),
    ("September", "Sept."),
    ("October", "Oct."),
    ("November", "Nov."),
    ("December", "Dec."),
];
const STREETS: [(&str, &str); 3] = [("Avenue", "Ave."), ("Boulevard", "Blvd."), ("Street", "St.")];
const STATES: [(&str, &str, &str); 8] = [
    ("Nashville", "Tennessee", "Tenn."),
    ("Mobile", "Alabama", "Ala."),
    ("Boulder", "Colorado", "Colo."),
    ("Tampa", "Florida", "Fla."),
    ("Macon", "Georgia", "Ga."),
    ("Flint", "Michigan", "Mich."),
    ("Duluth", "Minnesota", "Minn."),
    ("Salem", "Oregon", "Ore."),
];
const LONG_STATES: [(&str, &str, &str); 6] = [
    ("Dallas", "Texas", "Tex."),
    ("Akron", "Ohio", "O."),
    ("Ames", "Iowa", "Ia."),
    ("Bangor", "Maine", "Me."),
    ("Boise", "Idaho", "Ida."),
    ("Juneau", "Alaska", "Alas."),
];
const TITLES: [(&str, &str); 4] =
    [("Mayor", "mayor"), ("Governor", "governor"), ("Senator", "senator"), ("Sheriff", "sheriff")];
const THINGS: [&str; 8] =
    ["lanterns", "turbines", "tents", "barrels", "tickets", "wagons", "statues", "canoes"];

/// A clause, or a whole sentence with `{S}` for the name and `{n}` for the noun: as it breaks a rule, and as it keeps it.
pub(super) struct Fault {
    pub(super) whole: bool,
    pub(super) wrong: String,
    pub(super) right: String,
    pub(super) must: Pattern,
    pub(super) must_not: Pattern,
    /// What differs.
    pub(super) swap: (String, String),
}

fn clause(wrong: String, right: String, swap: (String, String), must: &[&str], must_not: &[&str]) -> Fault {
    Fault { whole: false, wrong, right, must: Pattern::any(must), must_not: Pattern::any(must_not), swap }
}

/// A clause in which `wrong` stands for `right`, each of which must not and must occur.
fn swap(form: &str, wrong: &str, right: &str) -> Fault {
    let put = |text: &str| form.replace("{}", text);
    clause(put(wrong), put(right), (wrong.to_owned(), right.to_owned()), &[right], &[wrong])
}

fn age(n: usize) -> String {
    match n % 10 {
        0 => TENS[n / 10 - 2].to_owned(),
        1 => format!("{}-one", TENS[n / 10 - 2]),
        unit => format!("{}-{}", TENS[n / 10 - 2], SMALL[unit - 2]),
    }
}

fn also(mut fault: Fault, must: &[String], must_not: &[String]) -> Fault {
    if let Pattern::Any(list) = &mut fault.must {
        list.extend_from_slice(must);
    }
    if let Pattern::Any(list) = &mut fault.must_not {
        list.extend_from_slice(must_not);
    }
    fault
}

/// What breaks the rule of that id, with its slots drawn.
pub(super) fn fault(id: &str, surname: &str, noun: &str, rng: &mut DetRng) -> Fault {
    let thing = *rng.pick(&THINGS);
    let (small, teen) = (rng.index(8), rng.index(10));
    let street = *rng.pick(&STREETS);
    let road = rng.pick(&["Harlan", "Mill", "Cedar", "Quarry", "Dover"]);
    let month = rng.pick(&MONTHS);
    let day = rng.range(2, 28);
    let hour = rng.range(2, 11);
    match id {
        "N1" => {
            swap("the club keeps {}", &format!("{} {thing}", small + 2), &format!("{} {thing}", SMALL[small]))
        }
        "N2" => {
            swap("the club bought {}", &format!("{} {thing}", TEENS[teen]), &format!("{} {thing}", teen + 10))
        }
        "N3" => {
            let n = 21 + rng.index(70);
            let fault = swap("the guard is {}", &format!("{} years old", age(n)), &format!("{n} years old"));
            let forms = |n: &str| ["year-old", "years-old", "year old"].map(|f| format!("{n}-{f}")).to_vec();
            also(fault, &forms(&n.to_string()), &forms(&age(n)))
        }
        "N4" => {
            let (n, word) = (teen + 10, TEENS[teen]);
            let fault = swap("costs rose {}", &format!("{word} per cent"), &format!("{n} percent"));
            also(fault, &[format!("{n}%")], &[format!("{n} per cent"), format!("{word} percent")])
        }
        "N5" => {
            let n = 10 * rng.range(12, 95);
            swap("repairs cost {}", &format!("{n} dollars"), &format!("${n}"))
        }
        "N6" => {
            let (short, long) = rng.pick(&ORDINALS);
            swap("the {} of the work is done", &format!("{short} phase"), &format!("{long} phase"))
        }
        "N7" => {
            let decade = 1900 + 10 * rng.range(2, 9);
            swap("the roof dates from the {}", &format!("{decade}'s"), &format!("{decade}s"))
        }
        "N8" => {
            let (a, b) = (rng.range(2, 9), rng.range(1, 9));
            swap(
                "the region has {}",
                &format!("{a},{b}00,000 residents"),
                &format!("{a}.{b} million residents"),
            )
        }
        "P1" => {
            let [a, b, c] = *rng.pick(&[
                ["salt", "rope", "tar"],
                ["soup", "bread", "jam"],
                ["wool", "felt", "lace"],
                ["nails", "glue", "paint"],
            ]);
            swap("the shop sells {} again", &format!("{a}, {b}, and {c}"), &format!("{a}, {b} and {c}"))
        }
        "P2" => {
            let state = *rng.pick(&["shut", "full", "empty", "sold", "flooded"]);
            let whole = |quote: &str| format!("\"The {{n}} is {state}{quote} {{S}} said.");
            let pattern =
                |marks: &[&str]| Pattern::Any(marks.iter().map(|m| format!("{state}{m}")).collect());
            Fault {
                whole: true,
                wrong: whole("\","),
                right: whole(",\""),
                must: pattern(&[",\"", ".\"", "!\"", "?\""]),
                must_not: pattern(&["\",", "\"."]),
                swap: (format!("{state}\","), format!("{state},\"")),
            }
        }
        "P3" => {
            let (left, mood) =
                (*rng.pick(&["early", "late", "first", "last"]), *rng.pick(&["full", "dark", "quiet"]));
            let whole = |gap: &str| format!("{{S}} left {left}.{gap}The {{n}} stayed {mood} that night.");
            Fault {
                whole: true,
                wrong: whole("  "),
                right: whole(" "),
                must: Pattern::Any(vec![format!("{left}. The {noun}")]),
                must_not: Pattern::TwoSpaces,
                swap: (format!("{left}.  The"), format!("{left}. The")),
            }
        }
        "P4" => {
            let who = *rng.pick(&["crew", "staff", "choir", "team"]);
            swap("one thing was clear{} stay", &format!(": the {who} must"), &format!(": The {who} must"))
        }
        "D1" => swap("on {} the work began", &format!("{} {day}", month.0), &format!("{} {day}", month.1)),
        "D2" => {
            let (month, n) = (*rng.pick(&["March", "April", "May", "June", "July"]), rng.index(9));
            swap("on {} the work began", &format!("{month} {}", ORDINALS[n].0), &format!("{month} {}", n + 1))
        }
        "D3" => {
            let fault = swap("at {} the doors opened", &format!("{hour} PM"), &format!("{hour} p.m."));
            let wrong = ["PM", " pm", "pm", " P.M.", "P.M."].map(|m| format!("{hour}{m}"));
            also(fault, &[], &wrong)
        }
        "D4" => {
            let fault = swap("at {} the doors opened", &format!("{hour}:00 a.m."), &format!("{hour} a.m."));
            also(fault, &[], &[format!("{hour}:00")])
        }
        "D5" => {
            let (half, right) = *rng.pick(&[("p", "noon"), ("a", "midnight")]);
            let fault = swap("at {} the bells rang", &format!("12 {half}.m."), right);
            let wrong = ["12 {}.m", "12 {}m", "12:00 {}.m", "12:00 {}m", "12{}.m", "12{}m"];
            also(fault, &[], &wrong.map(|w| w.replace("{}", half)))
        }
        "D6" => {
            let year = rng.range(2001, 2024);
            swap("in {} the line closed", &format!("{} {year}", month.1), &format!("{} {year}", month.0))
        }
        "A1" => {
            let n = rng.range(100, 1900);
            let at = |kind: &str| format!("{n} {road} {kind}");
            let put = |kind: &str| format!("the house at {} burned", at(kind));
            clause(
                put(street.0),
                put(street.1),
                (at(street.0), at(street.1)),
                &[&at(street.1)],
                &[&at(street.0)],
            )
        }
        "A2" => {
            let n = rng.range(11, 99);
            let wrong = format!("{n} {road} Rd");
            let fault = swap("the house at {} burned", &format!("{wrong}."), &format!("{n} {road} Road"));
            also(fault, &[], &[wrong])
        }
        "A3" => {
            swap("traffic {} stopped", &format!("on {road} {}", street.1), &format!("on {road} {}", street.0))
        }
        "A4" => {
            let (city, long, short) = rng.pick(&STATES);
            swap("the van from {} never came", &format!("{city}, {long},"), &format!("{city}, {short},"))
        }
        "A5" => {
            let (city, long, short) = rng.pick(&LONG_STATES);
            swap("the van from {} never came", &format!("{city}, {short},"), &format!("{city}, {long},"))
        }
        "T1" | "T2" | "T3" => {
            let (upper, lower) = *rng.pick(&TITLES);
            let given = NameKind::Given.name(rng.index(NameKind::Given.len()));
            let place = NameKind::Place.name(rng.index(NameKind::Place.len()));
            let forms = |title: &str| match id {
                "T1" => [format!("{surname}, {title}"), format!("{surname}, the {title}")],
                _ => [format!("{title} {given} {surname}"), format!("{title} {surname}")],
            };
            let (wrong, right) = match id {
                "T1" => (forms(upper).to_vec(), forms(lower).to_vec()),
                "T2" => (forms(lower).to_vec(), forms(upper).to_vec()),
                _ => {
                    let wrong =
                        ["Mr.", "Mrs.", "Ms.", "Miss", "Mr", "Mrs", "Ms"].map(|m| format!("{m} {surname}"));
                    (wrong.to_vec(), vec![surname.to_owned()])
                }
            };
            let form = if id == "T1" {
                format!("{{}} of {place}, opened the {{n}} on foot.")
            } else {
                "On foot {} opened the {n} that day.".to_owned()
            };
            // A name alone would be in a list of names, too.
            let must = match id {
                "T3" => Pattern::AnyCase(["opened", "open", "opens", "opening"].map(str::to_owned).to_vec()),
                _ => Pattern::Any(right.clone()),
            };
            Fault {
                whole: true,
                wrong: form.replace("{}", &wrong[0]),
                right: form.replace("{}", &right[0]),
                swap: (wrong[0].clone(), right[0].clone()),
                must,
                must_not: Pattern::Any(wrong),
            }
        }
        "M1" => {
            let first = rng.pick(&["Glass", "Paper", "Iron", "Velvet", "Salt", "Copper"]);
            let title = format!(
                "The {first} {}",
                rng.pick(&["Orchard", "Tide", "Heron", "Winter", "Engine", "Letter"])
            );
            let put = |title: &str| format!("the novel {title} sold out");
            let quoted = format!("\"{title}\"");
            Fault {
                whole: false,
                wrong: put(&title),
                right: put(&quoted),
                must: Pattern::Any(["", ",", "."].iter().map(|m| format!("\"{title}{m}\"")).collect()),
                must_not: Pattern::Unquoted(title.clone()),
                swap: (title, quoted),
            }
        }
        "M2" => {
            let first = rng.pick(&["Harbor", "Valley", "Evening", "Morning", "Border", "Prairie"]);
            let name =
                format!("The {first} {}", rng.pick(&["Ledger", "Courier", "Herald", "Sentinel", "Gazette"]));
            let fault = swap("an editor of {} called", &format!("\"{name}\""), &name);
            also(fault, &[], &[",", "."].map(|m| format!("\"{name}{m}\"")))
        }
        "M3" => {
            let name =
                *rng.pick(&["Parkfinder", "Trailmate", "Ridelist", "Bookswap", "Cratedig", "Lunchmap"]);
            let site = format!("{}.example", name.to_lowercase());
            let put = |text: &str| format!("bookings on {text} tripled");
            Fault {
                whole: false,
                wrong: put(&format!("www.{site}")),
                right: put(name),
                must: Pattern::any(&[name]),
                swap: (format!("www.{site}"), name.to_owned()),
                must_not: Pattern::AnyCase(vec![site]),
            }
        }
        "C1" => {
            let season = *rng.pick(&["summer", "winter", "autumn"]);
            swap("work slows in the {} most years", &capital(season), season)
        }
        "C2" => {
            let way = *rng.pick(&["north", "south", "east", "west"]);
            swap("the convoy {} at dawn", &format!("drove {}", capital(way)), &format!("drove {way}"))
        }
        id => {
            let with: Vec<_> = FIXED.iter().filter(|f| f.0 == id).collect();
            let (_, wrong, right, must, must_not) = with[rng.index(with.len())];
            clause((*wrong).into(), (*right).into(), ((*wrong).into(), (*right).into()), must, must_not)
        }
    }
}
