//! The house style sheet: rules by category.

use std::sync::OnceLock;

use regex::Regex;

/// What rules are about.
pub(super) const CATEGORIES: [&str; 10] = [
    "numbers",
    "punctuation",
    "dates and times",
    "addresses and places",
    "titles and positions",
    "media",
    "capital letters",
    "technical terms",
    "clarity and brevity",
    "consistency",
];

/// Id, category, and what is printed.
pub(super) const RULES: &[(&str, usize, &str)] = &[
    ("N1", 0, "numbers of things from two to nine are words: seven lanterns, not 7 lanterns"),
    ("N2", 0, "numbers of things from 10 on are digits: 17 turbines, not seventeen turbines"),
    ("N3", 0, "ages are digits: 34 years old, not thirty-four years old"),
    ("N4", 0, "percentages are digits with % or percent: 12 percent, not twelve per cent"),
    ("N5", 0, "money is written with a dollar sign: $450, not 450 dollars"),
    ("N6", 0, "ordinals from first to ninth are words: third phase, not 3rd phase"),
    ("N7", 0, "decades have no apostrophe: 1990s, not 1990's"),
    ("N8", 0, "millions are written as 2.3 million residents, not 2,300,000 residents"),
    ("P1", 1, "no comma before the last item of a list: salt, rope and tar, not salt, rope, and tar"),
    (
        "P2",
        1,
        "commas and periods stand before a closing quotation mark: shut,\" Frost said, not shut\", Frost said",
    ),
    ("P3", 1, "one space between sentences, not two"),
    ("P4", 1, "a full sentence after a colon begins with a capital letter: The crew must, not the crew must"),
    (
        "D1",
        2,
        "with a day, Jan., Feb., Aug., Sept., Oct., Nov. and Dec. are short: Sept. 14, not September 14",
    ),
    ("D2", 2, "days are plain numbers: March 3, not March 3rd"),
    ("D3", 2, "times are 8 p.m. and 8 a.m., not 8 PM"),
    ("D4", 2, "full hours have no zeros: 9 a.m., not 9:00 a.m."),
    ("D5", 2, "noon and midnight, not 12 p.m. and 12 a.m."),
    ("D6", 2, "without a day, months are written in full: September 2021, not Sept. 2021"),
    ("A1", 3, "with a number, Avenue, Boulevard and Street are Ave., Blvd. and St.: 1600 Harlan Ave."),
    ("A2", 3, "Road is never short: 75 Mill Road, not 75 Mill Rd."),
    ("A3", 3, "without a number, Avenue, Boulevard and Street are written in full: on Harlan Avenue"),
    (
        "A4",
        3,
        "after a city, states are short: Nashville, Tenn.; also Ala., Colo., Fla., Ga., Mich., Minn., Ore., Wash.",
    ),
    (
        "A5",
        3,
        "Texas, Ohio, Utah, Iowa, Maine, Idaho, Alaska and Hawaii are never short: Dallas, Texas, not Dallas, Tex.",
    ),
    ("T1", 4, "titles after a name are lower case: Frost, mayor of Fenburg"),
    ("T2", 4, "titles before a name are capitals: Mayor Dana Frost"),
    ("T3", 4, "no Mr., Mrs., Ms. or Miss: Glenn, not Mr. Glenn"),
    (
        "T4",
        4,
        "police officer, firefighter, chairperson, spokesperson, mail carrier; not policeman, fireman, chairman, \
               spokesman, mailman",
    ),
    ("M1", 5, "titles of books stand in quotation marks: \"The Glass Orchard\""),
    ("M2", 5, "names of newspapers do not: The Harbor Ledger"),
    ("M3", 5, "websites are called by their name: Parkfinder, not www.parkfinder.example"),
    ("C1", 6, "seasons are lower case: summer"),
    ("C2", 6, "directions are lower case: drove north"),
    ("C3", 6, "regions are capitals: the Midwest, the Northeast, the West Coast"),
    ("C4", 6, "federal government and city council are lower case"),
    ("X1", 7, "email, not E-mail"),
    ("X2", 7, "website, not web site"),
    ("X3", 7, "web page, not webpage"),
    ("X4", 7, "internet, not Internet"),
    ("X5", 7, "iPhone, not Iphone"),
    ("X6", 7, "smartphone, not smart phone"),
    ("X7", 7, "online, not on-line"),
    ("X8", 7, "cybersecurity, not cyber security"),
    ("B1", 8, "to, not in order to"),
    ("B2", 8, "now, not at this point in time"),
    ("B3", 8, "because, not due to the fact that"),
    ("B4", 8, "used, not utilized"),
    ("B5", 8, "before, not prior to"),
    ("B6", 8, "many, not a large number of"),
    ("B7", 8, "if, not in the event that"),
    ("B8", 8, "for, not for the purpose of"),
    ("K1", 9, "the founder is Katherine Vale, not Kathryn Vale"),
    ("K2", 9, "toward, not towards"),
    ("K3", 9, "adviser, not advisor"),
    ("K4", 9, "gray, not grey"),
    ("K5", 9, "canceled, not cancelled"),
];

/// The place of a rule in [`RULES`].
pub(super) fn rule(id: &str) -> usize {
    RULES.iter().position(|r| r.0 == id).unwrap_or(0)
}

/// Statements without slots: id, wrong, right, what must be there, what must not.
pub(super) type Fixed =
    (&'static str, &'static str, &'static str, &'static [&'static str], &'static [&'static str]);

pub(super) const FIXED: &[Fixed] = &[
    ("X1", "the E-mail list has grown", "the email list has grown", &["email"], &["E-mail", "e-mail"]),
    ("X2", "the web site was slow", "the website was slow", &["website"], &["web site", "Web site"]),
    ("X3", "the webpage was out of date", "the web page was out of date", &["web page"], &["webpage"]),
    ("X4", "the Internet was down again", "the internet was down again", &["internet"], &["Internet"]),
    ("X5", "an Iphone was handed in", "an iPhone was handed in", &["iPhone"], &["Iphone", "IPhone"]),
    ("X6", "a smart phone had rung", "a smartphone had rung", &["smartphone"], &["smart phone"]),
    ("X7", "the forms went on-line", "the forms went online", &["online"], &["on-line"]),
    ("X8", "cyber security came first", "cybersecurity came first", &["cybersecurity"], &["cyber security"]),
    ("B1", "the crew met in order to plan", "the crew met to plan", &["to plan"], &["in order to"]),
    (
        "B2",
        "the gate is open at this point in time",
        "the gate is now open",
        &["now"],
        &["at this point in time"],
    ),
    (
        "B3",
        "the train stopped due to the fact that it snowed",
        "the train stopped because it snowed",
        &["because"],
        &["due to the fact that"],
    ),
    ("B4", "the crew utilized old maps", "the crew used old maps", &["used"], &["utilized"]),
    ("B5", "the doors shut prior to dusk", "the doors shut before dusk", &["before"], &["prior to"]),
    ("B6", "a large number of guests stayed", "many guests stayed", &["many guests"], &["a large number of"]),
    (
        "B7",
        "work stops in the event that it rains",
        "work stops if it rains",
        &["if it"],
        &["in the event that"],
    ),
    (
        "B8",
        "a van was hired for the purpose of delivery",
        "a van was hired for delivery",
        &["for delivery"],
        &["for the purpose of"],
    ),
    ("K1", "the founder was Kathryn Vale", "the founder was Katherine Vale", &["Katherine"], &["Kathryn"]),
    (
        "K2",
        "the crowd walked towards the river",
        "the crowd walked toward the river",
        &["toward"],
        &["towards"],
    ),
    ("K3", "an advisor had resigned", "an adviser had resigned", &["adviser"], &["advisor"]),
    ("K4", "the new roof is grey", "the new roof is gray", &["gray"], &["grey"]),
    ("K5", "the tour was cancelled", "the tour was canceled", &["canceled"], &["cancelled"]),
    ("C3", "orders from the midwest doubled", "orders from the Midwest doubled", &["Midwest"], &["midwest"]),
    (
        "C3",
        "orders from the northeast fell",
        "orders from the Northeast fell",
        &["Northeast"],
        &["northeast"],
    ),
    (
        "C3",
        "orders from the west coast fell",
        "orders from the West Coast fell",
        &["West Coast"],
        &["west coast"],
    ),
    (
        "C4",
        "the Federal Government paid half",
        "the federal government paid half",
        &["federal government"],
        &["Federal Government"],
    ),
    (
        "C4",
        "the City Council voted late",
        "the city council voted late",
        &["city council"],
        &["City Council"],
    ),
    ("T4", "a policeman kept watch", "a police officer kept watch", &["police officer"], &["policeman"]),
    ("T4", "a fireman kept watch", "a firefighter kept watch", &["firefighter"], &["fireman"]),
    ("T4", "the chairman was ill", "the chairperson was ill", &["chairperson"], &["chairman"]),
    ("T4", "a spokesman was ill", "a spokesperson was ill", &["spokesperson"], &["spokesman"]),
    ("T4", "the mailman was late", "the mail carrier was late", &["mail carrier"], &["mailman"]),
];

/// Violations that can be seen without knowing a statement, by category.
pub(super) fn global() -> &'static [(usize, Regex)] {
    static ALL: OnceLock<Vec<(usize, Regex)>> = OnceLock::new();
    const MONTHS: &str = "(?:January|February|March|April|May|June|July|August|September|October|November|December\
                          |Jan\\.|Feb\\.|Aug\\.|Sept\\.|Oct\\.|Nov\\.|Dec\\.)";
    ALL.get_or_init(|| {
        let patterns = [
            (0, r"(?i-u:\bper cent\b)".to_owned()),
            (0, r"(?-u:\b(?:1[89]|20)[0-9]0's\b)".to_owned()),
            (1, r#""[,.]"#.to_owned()),
            (1, r"[.!?] {2,}[^ \n]".to_owned()),
            (2, format!(r"{MONTHS}[ \n]+[0-9]{{1,2}}(?-u:(?:st|nd|rd|th)\b)")),
            (2, r"(?-u:\b[0-9]{1,2}[ \n]?(?:AM|PM|am|pm)\b)".to_owned()),
            (2, r"(?-u:\b[0-9]{1,2}):00[ \n]?[ap]\.m\.".to_owned()),
            (4, r"(?-u:\b(?:Mr|Mrs|Ms))\.[ \n]".to_owned()),
        ];
        let fixed = FIXED.iter().filter(|f| "XBKT".contains(&f.0[..1])).flat_map(|&(id, .., must_not)| {
            let category = RULES[rule(id)].1;
            must_not.iter().map(move |wrong| (category, format!(r"(?-u:\b){}(?-u:\b)", regex::escape(wrong))))
        });
        let compile = |(category, pattern): (usize, String)| Some((category, Regex::new(&pattern).ok()?));
        patterns.into_iter().chain(fixed).filter_map(compile).collect()
    })
}
