//! Values as text.

use super::value::{Run, Stop, Value, raise, spend};

/// `repr` of a float.
pub(super) fn float(value: f64) -> String {
    if value.is_nan() {
        return "nan".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf".into() } else { "-inf".into() };
    }
    if value != 0.0 && !(1e-4..1e16).contains(&value.abs()) {
        let text = format!("{value:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, size) = exponent.strip_prefix('-').map_or(('+', exponent), |size| ('-', size));
        return format!("{digits}e{sign}{size:0>2}");
    }
    format!("{value:?}")
}

fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

/// Brackets deeper than this are not shown: a list may hold itself.
const DEPTH: usize = 50;

pub(super) fn repr<'a>(value: &Value<'a>, depth: usize) -> Run<'a, String> {
    if depth > DEPTH || !spend() {
        return Err(Stop::Limit);
    }
    let join = |items: &[Value<'a>]| -> Run<'a, String> {
        Ok(items.iter().map(|v| repr(v, depth + 1)).collect::<Run<'a, Vec<_>>>()?.join(", "))
    };
    Ok(match value {
        Value::None => "None".into(),
        Value::Bool(true) => "True".into(),
        Value::Bool(false) => "False".into(),
        Value::Int(i) => i.to_string(),
        Value::Float(f) => float(*f),
        Value::Str(s) => quoted(s),
        Value::List(l) => format!("[{}]", join(&l.borrow())?),
        Value::Tuple(t) if t.len() == 1 => format!("({},)", join(t)?),
        Value::Tuple(t) => format!("({})", join(t)?),
        Value::Set(s) if s.borrow().frozen => return Err(Stop::Unsupported),
        Value::Dict(d) if !d.borrow().is_plain() => return Err(Stop::Unsupported),
        Value::Set(s) if s.borrow().is_empty() => "set()".into(),
        Value::Set(s) => format!("{{{}}}", join(&s.borrow())?),
        Value::Dict(d) => {
            let pair = |(k, v): &(Value<'a>, Value<'a>)| -> Run<'a, String> {
                Ok(format!("{}: {}", repr(k, depth + 1)?, repr(v, depth + 1)?))
            };
            format!("{{{}}}", d.borrow().iter().map(pair).collect::<Run<'a, Vec<_>>>()?.join(", "))
        }
        Value::Range(range) => match **range {
            [start, end, 1] => format!("range({start}, {end})"),
            [start, end, step] => format!("range({start}, {end}, {step})"),
        },
        _ => return Err(Stop::Unsupported),
    })
}

pub(super) fn display<'a>(value: &Value<'a>) -> Run<'a, String> {
    match value {
        Value::Str(s) => Ok(s.to_string()),
        other => repr(other, 0),
    }
}

fn grouped(digits: &str) -> String {
    let (whole, rest) = digits.split_once('.').map_or((digits, None), |(w, r)| (w, Some(r)));
    let (sign, whole) = whole.strip_prefix('-').map_or(("", whole), |w| ("-", w));
    let mut out = String::new();
    for (i, c) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    rest.map_or(format!("{sign}{out}"), |rest| format!("{sign}{out}.{rest}"))
}

/// `format(value, spec)` for `[[fill]align][0][width][,][.digits][s|d|f|%]`.
pub(super) fn format<'a>(value: &Value<'a>, spec: &str) -> Run<'a, String> {
    let chars: Vec<char> = spec.chars().collect();
    let is_align = |i: usize| chars.get(i).is_some_and(|c| "<>^".contains(*c));
    let (fill, align, mut at) = match () {
        () if is_align(1) => (chars[0], Some(chars[1]), 2),
        () if is_align(0) => (' ', Some(chars[0]), 1),
        () => (' ', None, 0),
    };
    let zero = chars.get(at) == Some(&'0') && align.is_none();
    let number = |at: &mut usize| {
        let start = *at;
        while chars.get(*at).is_some_and(char::is_ascii_digit) {
            *at += 1;
        }
        chars[start..*at].iter().collect::<String>().parse::<usize>().ok()
    };
    let width = number(&mut at).unwrap_or(0);
    let comma = chars.get(at) == Some(&',');
    at += usize::from(comma);
    let mut digits = None;
    if chars.get(at) == Some(&'.') {
        at += 1;
        digits = number(&mut at);
    }
    let kind = chars.get(at).copied();
    if at + usize::from(kind.is_some()) < chars.len() || width > 1000 || digits.is_some_and(|d| d > 100) {
        return Err(Stop::Unsupported);
    }
    let body = match (kind, value) {
        (None | Some('s'), Value::Str(s)) => s.chars().take(digits.unwrap_or(usize::MAX)).collect(),
        (None, Value::Float(_)) if digits.is_some() => return Err(Stop::Unsupported),
        (None, Value::Bool(b)) => i32::from(*b).to_string(),
        (None, v) if v.float().is_some() => display(v)?,
        (None, v) => return Value::mistake(&[v]),
        (Some('d'), v) if digits.is_none() => {
            v.int().ok_or_else(|| Stop::Raise("ValueError".into()))?.to_string()
        }
        (Some('f' | '%'), v) => {
            let Some(x) = v.float() else { return raise("ValueError") };
            let percent = kind == Some('%');
            let text = format!("{:.*}", digits.unwrap_or(6), if percent { 100.0 * x } else { x });
            if percent { text + "%" } else { text }
        }
        _ => return Err(Stop::Unsupported),
    };
    let body = if comma { grouped(&body) } else { body };
    let numeric = value.float().is_some();
    if zero && (comma || !numeric) {
        return Err(Stop::Unsupported);
    }
    let gap = width.saturating_sub(body.chars().count());
    if zero {
        return Ok(zeros(&body, gap));
    }
    Ok(pad(&body, gap, fill, align.unwrap_or(if numeric { '>' } else { '<' })))
}

/// Zeros between the sign of a number and its digits.
pub(super) fn zeros(number: &str, gap: usize) -> String {
    let (sign, digits) = number.strip_prefix('-').map_or(("", number), |digits| ("-", digits));
    format!("{sign}{}{digits}", "0".repeat(gap))
}

pub(super) fn pad(text: &str, gap: usize, fill: char, align: char) -> String {
    let left = match align {
        '>' => gap,
        '^' => gap / 2,
        _ => 0,
    };
    let fill = |n: usize| fill.to_string().repeat(n);
    format!("{}{text}{}", fill(left), fill(gap - left))
}
