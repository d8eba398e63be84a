//! Clean functions, and arguments to call them with.

use crate::key::DetRng;

/// A function with slots: `{f}` its name, `{a}` a small number, `{b}` a larger one.
pub(super) struct Archetype {
    pub(super) names: &'static [&'static str],
    pub(super) text: &'static str,
    pub(super) args: &'static [Arg],
}

/// How an argument is drawn.
#[derive(Debug, Clone, Copy)]
pub(super) enum Arg {
    /// A list of whole numbers.
    Numbers,
    /// Pairs of a word and a number.
    Pairs,
    Words,
    /// Words in a line.
    Sentence,
    /// A dictionary from words to numbers.
    Scores,
    /// Records with name, group and value.
    Records,
    /// Lists of numbers.
    Matrix,
    /// Pairs of a start and an end.
    Intervals,
    /// `key=value` lines.
    Lines,
    Small,
}

const WORDS: &[&str] = &[
    "apple", "brick", "cloud", "delta", "ember", "flint", "grape", "hazel", "ivory", "jolly", "koala",
    "lemon", "mango", "noble", "ocean", "pearl",
];

impl Arg {
    /// A literal.
    pub(super) fn draw(self, rng: &mut DetRng) -> String {
        let word = |rng: &mut DetRng| (*rng.pick(WORDS)).to_owned();
        let list = |n: u64, rng: &mut DetRng, item: &mut dyn FnMut(&mut DetRng) -> String| {
            (0..n).map(|_| item(rng)).collect::<Vec<_>>().join(", ")
        };
        let n = rng.range(4, 8);
        match self {
            Arg::Numbers => format!("[{}]", list(n, rng, &mut |r| r.range(1, 60).to_string())),
            Arg::Pairs => {
                format!("[{}]", list(n, rng, &mut |r| format!("('{}', {})", word(r), r.range(1, 40))))
            }
            Arg::Words => format!("[{}]", list(n, rng, &mut |r| format!("'{}'", word(r)))),
            Arg::Sentence => {
                let words: Vec<String> = (0..n).map(|_| word(rng)).collect();
                format!("'{}'", words.join(" "))
            }
            Arg::Scores => {
                let keys = rng.sample(WORDS.len(), n as usize);
                let item = |k: usize| format!("'{}': {}", WORDS[k], rng.range(1, 60));
                format!("{{{}}}", keys.into_iter().map(item).collect::<Vec<_>>().join(", "))
            }
            Arg::Records => format!(
                "[{}]",
                list(n, rng, &mut |r| {
                    let group = ["red", "blue", "green"][r.index(3)];
                    format!("{{'name': '{}', 'group': '{group}', 'value': {}}}", word(r), r.range(1, 60))
                })
            ),
            Arg::Matrix => {
                let width = rng.range(2, 4);
                let mut row =
                    |r: &mut DetRng| format!("[{}]", list(width, r, &mut |r| r.range(1, 30).to_string()));
                format!("[{}]", list(rng.range(2, 4), rng, &mut row))
            }
            Arg::Intervals => format!(
                "[{}]",
                list(n, rng, &mut |r| {
                    let start = r.range(0, 50);
                    format!("({start}, {})", start + r.range(1, 12))
                })
            ),
            Arg::Lines => {
                format!("[{}]", list(n, rng, &mut |r| format!("'{} = {}'", word(r), r.range(1, 90))))
            }
            Arg::Small => rng.range(2, 5).to_string(),
        }
    }
}

use Arg::{Intervals, Lines, Matrix, Numbers, Pairs, Records, Scores, Sentence, Small, Words};

macro_rules! archetypes {
    ($($names:expr, [$($arg:expr),*], $text:expr;)*) => {
        pub(super) const ARCHETYPES: &[Archetype] =
            &[$(Archetype { names: &$names, args: &[$($arg),*], text: $text }),*];
    };
}

archetypes! {
    ["filter_records", "select_large", "keep_heavy"], [Records], r#"def {f}(records, extra=None):
    """Return the names of records above a threshold."""
    if extra is None:
        extra = []
    kept = list(extra)
    limit = {b}
    for record in records:
        value = record['value']
        if value > limit:
            kept.append(record['name'])
        elif value == limit and record['group'] != 'red':
            kept.append(record['name'].upper())
    kept.sort()
    return kept
"#;
    ["group_totals", "sum_by_key", "collect_sums"], [Pairs], r#"def {f}(pairs, start=0):
    """Add up the values of each key."""
    totals = {}
    for key, value in pairs:
        if key not in totals:
            totals[key] = start
        totals[key] += value + {a}
    largest = 0
    for key in totals:
        largest = max(largest, totals[key])
    totals['largest'] = largest
    return totals
"#;
    ["running_maximum", "rising_peaks", "top_so_far"], [Numbers], r#"def {f}(numbers, floor=0):
    """List the largest number so far at each step."""
    peaks = []
    current = floor
    for position, number in enumerate(numbers):
        shifted = number - position * {a}
        if shifted > current:
            current = shifted
        peaks.append(current)
    return peaks
"#;
    ["normalize_words", "clean_labels", "tidy_names"], [Words], r#"def {f}(words, prefix='x'):
    """Normalize words and mark the long ones."""
    cleaned = []
    for word in words:
        text = word.strip().lower()
        if not text:
            continue
        if len(text) > {a} and text not in cleaned:
            text = prefix + text
        cleaned.append(text)
    return cleaned
"#;
    ["parse_lines", "read_settings", "load_pairs"], [Lines], r#"def {f}(lines, default=None):
    """Parse lines of the form key = value."""
    settings = {}
    for line in lines:
        if '=' not in line:
            continue
        key, value = line.split('=', 1)
        try:
            settings[key.strip()] = int(value) + {a}
        except ValueError:
            settings[key.strip()] = default
    return settings
"#;
    ["count_words", "word_frequencies", "tally_tokens"], [Sentence], r#"def {f}(text, minimum=1):
    """Count the words of a text."""
    counts = {}
    for word in text.split():
        key = word.lower()
        counts[key] = counts.get(key, 0) + 1
    result = []
    for key in sorted(counts):
        if counts[key] >= minimum:
            result.append((key, counts[key] * {a}))
    return result
"#;
    ["merge_intervals", "join_spans", "combine_ranges"], [Intervals], r#"def {f}(spans, gap=0):
    """Merge intervals that overlap."""
    merged = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1] + gap:
            last = merged.pop()
            merged.append((last[0], max(last[1], end)))
        else:
            merged.append((start, end))
    total = sum(end - start for start, end in merged)
    return merged, total + {a}
"#;
    ["moving_average", "smooth_series", "window_means"], [Numbers, Small], r#"def {f}(numbers, size):
    """Average each window of a series."""
    means = []
    if size <= 0:
        raise ValueError('size must be positive')
    for start in range(len(numbers) - size + 1):
        window = numbers[start:start + size]
        means.append(round(sum(window) / size + {a}, 3))
    return means
"#;
    ["validate_fields", "check_records", "find_problems"], [Records], r#"def {f}(records, required=('name', 'value')):
    """List what is wrong with each record."""
    problems = []
    for index, record in enumerate(records):
        for field in required:
            if field not in record:
                problems.append((index, field))
        if record['value'] < {b} and record['group'] == 'blue':
            problems.append((index, 'value'))
    problems.append((len(records), 'checked'))
    return problems
"#;
    ["bucket_ages", "age_groups", "split_ages"], [Numbers], r#"def {f}(ages, width=10):
    """Count ages by decade."""
    buckets = {}
    for age in ages:
        low = age // width * width
        label = f'{low}-{low + width - 1}'
        buckets[label] = buckets.get(label, 0) + {a}
    ordered = []
    for label in sorted(buckets):
        ordered.append(f'{label}: {buckets[label]}')
    return ordered
"#;
    ["flatten_rows", "unroll_lists", "chain_rows"], [Matrix], r#"def {f}(rows, skip=None):
    """Flatten rows into one list without a value."""
    flat = []
    for row in rows:
        for value in row:
            if skip is not None and value == skip:
                continue
            flat.append(value * {a})
    return flat
"#;
    ["top_entries", "best_scores", "leading_keys"], [Scores, Small], r#"def {f}(scores, count):
    """Return the entries with the highest scores."""
    ranked = sorted(scores, key=lambda name: (-scores[name], name))
    chosen = []
    for place, name in enumerate(ranked[:count]):
        points = scores[name] + {a} * place
        chosen.append((place + 1, name, points))
    return chosen
"#;
    ["draw_histogram", "bar_chart", "plot_counts"], [Numbers], r#"def {f}(numbers, mark='*'):
    """Draw a bar for each number."""
    bars = []
    highest = max(numbers)
    for number in numbers:
        length = number * {b} // highest
        bar = mark * length
        bars.append(f'{number:>3} {bar}')
    return bars
"#;
    ["encode_runs", "compress_words", "run_lengths"], [Words], r#"def {f}(items, joiner=':'):
    """Encode runs of equal first letters."""
    runs = []
    previous = None
    length = 0
    for item in items:
        letter = item[0]
        if letter == previous:
            length += 1
            continue
        if previous is not None:
            runs.append(previous + joiner + str(length))
        previous = letter
        length = {a}
    runs.append(f'{previous}{joiner}{length}')
    return runs
"#;
    ["checksum_text", "hash_sentence", "digest_line"], [Sentence], r#"def {f}(text, modulus=9973):
    """Compute a simple checksum of a text."""
    value = {a}
    for index, letter in enumerate(text):
        if letter == ' ':
            value += index
            continue
        value = (value * 31 + ord(letter)) % modulus
    parity = 'even' if value % 2 == 0 else 'odd'
    return value, parity
"#;
    ["schedule_tasks", "plan_shifts", "assign_slots"], [Pairs], r#"def {f}(tasks, start=8):
    """Give each task a start and an end."""
    clock = start
    plan = []
    for name, length in tasks:
        if length > {b}:
            plan.append((name, None, None))
            continue
        end = clock + length
        plan.append((name, clock, end))
        clock = end + 1
    return plan
"#;
    ["row_sums", "sum_rows", "matrix_totals"], [Matrix], r#"def {f}(matrix, scale=1):
    """Add up rows and columns of a matrix."""
    rows = [sum(row) * scale for row in matrix]
    columns = []
    for index in range(len(matrix[0])):
        column = 0
        for row in matrix:
            column += row[index]
        columns.append(column + {a})
    return rows, columns
"#;
    ["missing_items", "only_in_first", "set_difference"], [Words, Words], r#"def {f}(first, second):
    """List what only the first of two lists has."""
    known = set(second)
    missing = []
    for item in first:
        if item not in known and item not in missing:
            missing.append(item)
    shared = len(set(first) & known)
    return sorted(missing), shared + {a}
"#;
    ["update_leaderboard", "rank_players", "score_table"], [Pairs], r#"def {f}(results, bonus=3):
    """Build a table of players by points."""
    table = {}
    for player, points in results:
        table[player] = table.get(player, 0) + points
        if points > {b}:
            table[player] += bonus
    board = []
    for player in sorted(table, key=lambda name: (-table[name], name)):
        board.append([player, table[player]])
    return board
"#;
    ["convert_units", "to_celsius", "scale_readings"], [Numbers], r#"def {f}(readings, digits=2):
    """Convert readings and mark the extremes."""
    converted = []
    for reading in readings:
        celsius = (reading - 32) * 5 / 9
        converted.append(round(celsius + {a}, digits))
    low = min(converted)
    high = max(converted)
    return {'values': converted, 'low': low, 'high': high}
"#;
    ["wrap_text", "fold_lines", "break_lines"], [Sentence], r#"def {f}(text, width=16):
    """Wrap a text at a width."""
    lines = []
    line = ''
    for word in text.split():
        if line and len(line) + len(word) + 1 > width + {a}:
            lines.append(line)
            line = word
        else:
            line = f'{line} {word}'.strip()
    lines.append(line)
    return lines
"#;
    ["evaluate_stack", "run_program", "stack_machine"], [Numbers], r#"def {f}(numbers, depth=4):
    """Run numbers through a small stack machine."""
    stack = []
    for number in numbers:
        if number % 3 == 0 and len(stack) >= 2:
            right = stack.pop()
            left = stack.pop()
            stack.append(left + right * {a})
        elif number % 2 == 0 and stack:
            stack[-1] -= number
        else:
            stack.append(number)
        if len(stack) > depth:
            stack.pop(0)
    return stack
"#;
    ["resolve_chain", "follow_links", "transitive_lookup"], [Pairs], r#"def {f}(pairs, limit=10):
    """Follow links between values until they end."""
    links = {}
    for name, value in pairs:
        links[value] = len(name) + {a}
    result = []
    for value in sorted(links):
        steps = 0
        current = value
        while current in links and steps < limit:
            current = links[current]
            steps += 1
        result.append((value, current, steps))
    return result
"#;
    ["format_report", "render_rows", "print_summary"], [Scores], r#"def {f}(scores, title='Report'):
    """Render scores as lines of a report."""
    lines = [title]
    total = 0
    for name in sorted(scores):
        score = scores[name]
        total += score
        grade = 'pass' if score >= {b} else 'fail'
        lines.append(f'{name:<8}|{score:>4}|{grade}')
    lines.append(f'total {total}')
    return lines
"#;
    ["rotate_list", "shift_items", "cycle_values"], [Numbers, Small], r#"def {f}(numbers, steps):
    """Rotate a list and raise its first value."""
    if not numbers:
        return []
    offset = steps % len(numbers)
    rotated = numbers[offset:] + numbers[:offset]
    rotated[0] += {a}
    return rotated
"#;
    ["split_large", "keep_above", "pick_high"], [Numbers], r#"def {f}(numbers, step=2):
    """Keep the numbers that are large enough."""
    limit = {b}

    def is_large(number):
        return number > limit

    big = [number for number in numbers if is_large(number)]
    tail = 1 if big else 0
    return big, tail + {a} * step
"#;
    ["index_words", "map_lengths", "measure_words"], [Words], r#"def {f}(words, floor=4):
    """Map words to lengths, and tell whether one is long."""
    lengths = {word: len(word) + {a} for word in words}
    letters = {word[0] for word in words}
    found = any(length > floor for length in lengths.values())
    return lengths, sorted(letters), found
"#;
    ["separate_kinds", "sort_fields", "divide_values"], [Records], r#"def {f}(records, wanted=None):
    """Add up the numbers of records and collect their texts."""
    colors = {'red', 'blue'}
    texts = []
    total = 0
    for record in records:
        for field in sorted(record):
            value = record[field]
            if isinstance(value, int):
                total += value * {a}
                continue
            if wanted is not None and value != wanted:
                continue
            if value not in colors:
                texts.append(value)
    return texts, total
"#;
    ["compare_words", "match_letters", "overlap_words"], [Words, Words], r#"def {f}(first, second):
    """Compare the words of two lists by their first letters."""
    pairs = [(left, right) for left in first for right in second]
    close = [left + right for left, right in pairs if left[0] == right[0]]
    complete = all(len(word) > {a} for word in first)
    sizes = {left: len(right) for left, right in pairs}
    return close[:{b}], complete, sorted(sizes.values())
"#;
}
