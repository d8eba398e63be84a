//! `str.format` and `%`, with the forms that f-strings have.

use super::interpreter::Interpreter;
use super::text::{display, format, pad, repr, zeros};
use super::value::{Keywords, Run, Stop, Value, raise};

/// Arguments of a call, and how many were taken in their order.
struct Arguments<'v, 'a> {
    args: &'v [Value<'a>],
    keywords: &'v [(std::rc::Rc<str>, Value<'a>)],
    next: usize,
}

impl<'a> Arguments<'_, 'a> {
    fn take(&mut self, field: &str) -> Run<'a, Value<'a>> {
        if field.contains(['.', '[']) {
            return Err(Stop::Unsupported);
        }
        if field.is_empty() {
            self.next += 1;
        }
        let place = if field.is_empty() { Some(self.next - 1) } else { field.parse().ok() };
        match place {
            Some(at) => self.args.get(at).cloned().map_or_else(|| raise("IndexError"), Ok),
            None => match self.keywords.iter().find(|k| &*k.0 == field) {
                Some((_, value)) => Ok(value.clone()),
                None => raise("KeyError"),
            },
        }
    }
}

/// Text to a brace, and behind it.
fn literal<'t>(text: &'t str, out: &mut String) -> (Option<char>, &'t str) {
    let Some(at) = text.find(['{', '}']) else {
        out.push_str(text);
        return (None, "");
    };
    out.push_str(&text[..at]);
    (text[at..].chars().next(), &text[at + 1..])
}

/// A field to its closing brace, and what is behind it.
fn field(text: &str) -> Option<(&str, &str)> {
    let mut depth = 0usize;
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => return Some((&text[..at], &text[at + 1..])),
            '}' => depth -= 1,
            _ => {}
        }
    }
    None
}

impl<'a> Interpreter<'a> {
    pub(super) fn formatted(
        &mut self,
        template: &str,
        args: &[Value<'a>],
        keywords: &Keywords<'a>,
    ) -> Run<'a, Value<'a>> {
        let mut arguments = Arguments { args, keywords, next: 0 };
        self.fill(template, &mut arguments, 2).map(Value::str)
    }

    /// A template with its fields filled, and with the fields in their forms while `levels` are left.
    fn fill(&mut self, template: &str, arguments: &mut Arguments<'_, 'a>, levels: u8) -> Run<'a, String> {
        let mut out = String::new();
        let mut rest = template;
        while let (Some(brace), behind) = literal(rest, &mut out) {
            self.burn(0)?;
            if behind.starts_with(brace) {
                out.push(brace);
                rest = &behind[1..];
                continue;
            }
            let Some((inner, behind)) = field(behind).filter(|_| brace == '{') else {
                return raise("ValueError");
            };
            let (name, spec) = inner.split_once(':').unwrap_or((inner, ""));
            let (name, conversion) = name.split_once('!').map_or((name, None), |(n, c)| (n, Some(c)));
            let value = arguments.take(name)?;
            let value = match conversion {
                None => value,
                Some("r") => Value::str(repr(&value, 0)?),
                Some("s") => Value::str(display(&value)?),
                Some(_) => return Err(Stop::Unsupported),
            };
            let spec = match spec {
                spec if !spec.contains(['{', '}']) => spec.to_owned(),
                _ if levels < 2 => return raise("ValueError"),
                spec => self.fill(spec, arguments, levels - 1)?,
            };
            out.push_str(&if spec.is_empty() { display(&value)? } else { format(&value, &spec)? });
            self.size(out.len())?;
            rest = behind;
        }
        Ok(out)
    }

    /// `template % value` for `%[-0][width][.digits](s|r|d|i|f|%)`, and `%(key)…` with a dictionary.
    pub(super) fn percent(&mut self, template: &str, value: &Value<'a>) -> Run<'a, Value<'a>> {
        let values = if let Value::Tuple(items) = value { items.to_vec() } else { vec![value.clone()] };
        let mut values = values.into_iter();
        let mut keyed = matches!(value, Value::Dict(_));
        let mut out = String::new();
        let mut rest = template;
        while let Some((before, mut spec)) = rest.split_once('%') {
            self.burn(0)?;
            out.push_str(before);
            if let Some(behind) = spec.strip_prefix('%') {
                out.push('%');
                rest = behind;
                continue;
            }
            let mut by_key = None;
            if let Some((key, behind)) = spec.strip_prefix('(').and_then(|s| s.split_once(')')) {
                by_key = Some(self.item(value, &Value::str(key))?);
                (spec, keyed) = (behind, true);
            }
            let width = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
            let flags = spec.trim_start_matches(['-', '0']);
            let flagged = &spec[..spec.len() - flags.len()];
            let (wide, mut kind) = flags.split_at(width(flags));
            let mut digits = None;
            if let Some(behind) = kind.strip_prefix('.') {
                let (number, behind) = behind.split_at(width(behind));
                (digits, kind) = (Some(number.parse::<usize>().unwrap_or(0)), behind);
            }
            let Some(sign) = kind.chars().next() else { return raise("ValueError") };
            let Some(item) = by_key.or_else(|| values.next()) else { return raise("TypeError") };
            let body = converted(&item, sign, digits)?;
            let wide = wide.parse::<usize>().unwrap_or(0);
            if wide > 1000 {
                return Err(Stop::Unsupported);
            }
            let gap = wide.saturating_sub(body.chars().count());
            let numeric = matches!(sign, 'd' | 'i' | 'f');
            match flagged {
                f if f.contains('-') => out.push_str(&pad(&body, gap, ' ', '<')),
                f if f.contains('0') && numeric => out.push_str(&zeros(&body, gap)),
                _ => out.push_str(&pad(&body, gap, ' ', '>')),
            }
            self.size(out.len())?;
            rest = &kind[sign.len_utf8()..];
        }
        out.push_str(rest);
        if values.next().is_some() && !keyed {
            return raise("TypeError");
        }
        self.size(out.len())?;
        Ok(Value::str(out))
    }
}

/// A value as a kind of `%` writes it.
fn converted<'a>(value: &Value<'a>, kind: char, digits: Option<usize>) -> Run<'a, String> {
    let cut = |text: String| text.chars().take(digits.unwrap_or(usize::MAX)).collect();
    match (kind, value) {
        ('s', value) => display(value).map(cut),
        ('r', value) => repr(value, 0).map(cut),
        ('d' | 'i', Value::Float(x)) if x.abs() < 1e15 && digits.is_none() => {
            Ok((x.trunc() as i64).to_string())
        }
        ('d' | 'i', value) if digits.is_none() => {
            value.int().map_or_else(|| raise("TypeError"), |i| Ok(i.to_string()))
        }
        ('f', value) if digits.is_none_or(|d| d <= 100) => match value.float() {
            Some(x) => Ok(format!("{x:.*}", digits.unwrap_or(6))),
            None => raise("TypeError"),
        },
        _ => Err(Stop::Unsupported),
    }
}
