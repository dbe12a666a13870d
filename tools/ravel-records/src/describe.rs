//! What the definitions of records say, as tables for documentation and as JSON Schema.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use crate::records::{ALL, FieldInfo, Info, Name, Type};

/// All records.
fn all() -> impl Iterator<Item = &'static Info> {
    ALL.iter().copied().flatten()
}

/// Replaces the tables of a document: what stands between `<!-- record NUMBER... -->` and `<!-- end
/// -->` becomes the table of these records, by their numbers in the binary form.
///
/// Fails with a sentence where a mark names no record, or has no end.
pub fn with_tables(document: &str) -> Result<String, String> {
    let mut new = String::new();
    let mut lines = document.lines();
    while let Some(line) = lines.next() {
        new += line;
        new.push('\n');
        let Some(mark) = line.strip_prefix("<!-- record ") else {
            continue;
        };
        let kinds = mark.strip_suffix(" -->").unwrap_or(mark);
        let infos = kinds.split(' ').map(|kind| {
            let found = all().find(|info| info.kind.to_string() == kind);
            found.ok_or_else(|| format!("there is no record {kind}"))
        });
        new += &table(&infos.collect::<Result<Vec<_>, _>>()?);
        lines
            .find(|line| *line == "<!-- end -->")
            .ok_or_else(|| format!("{line} has no end"))?;
        new += "<!-- end -->\n";
    }
    Ok(new)
}

/// The table of records; one row for fields that have the same meaning in several, which it names
/// if it is not all.
fn table(infos: &[&Info]) -> String {
    let mut found: Vec<(&FieldInfo, bool, Vec<&str>)> = Vec::new();
    for info in infos {
        rows(info.fields, false, &mut |field, optional| {
            let same = |(other, ..): &&mut (&FieldInfo, bool, Vec<&str>)| {
                (other.key, other.doc) == (field.key, field.doc)
            };
            match found.iter_mut().find(same) {
                Some((_, _, records)) => records.push(info.name),
                None => found.push((field, optional, vec![info.name])),
            }
        });
    }
    let mut text = String::from("\n| key | value | meaning |\n| --- | --- | --- |\n");
    for (field, optional, records) in found {
        let of = match records.len() == infos.len() {
            true => String::new(),
            false => format!("`{}`: ", records.join("`, `")),
        };
        let (value, meaning) = (value(field, optional), meaning(field));
        let _ = writeln!(text, "| `{}` | {value} | {of}{meaning} |", field.key);
    }
    text.push('\n');
    text
}

/// Each field, those of parts among the others, and whether a record may lack it.
fn rows(
    fields: &'static [FieldInfo],
    optional: bool,
    each: &mut dyn FnMut(&'static FieldInfo, bool),
) {
    for field in fields {
        let optional = optional || field.optional;
        match field.type_ {
            Type::Part(fields) => rows(fields, optional, each),
            _ => each(field, optional),
        }
    }
}

/// The type of a field, in the words of FORMAT.md.
fn value(field: &FieldInfo, optional: bool) -> String {
    let mut text = match field.type_ {
        Type::Number | Type::Signed => "number",
        Type::OrOff => "number or `off`",
        Type::Hex => "hex",
        Type::EtherType => "EtherType",
        Type::Id => "id",
        Type::Flag => "flag",
        Type::Offset => "offset",
        Type::Comm | Type::String | Type::Address => "string",
        Type::Numbers => "numbers",
        Type::Short | Type::Word | Type::Bytes | Type::Reason => "word",
        Type::Enumeration(..) | Type::Bits(_) | Type::Part(_) => "word",
    }
    .to_owned();
    match field.unit {
        "" => {}
        "s" => text += ", seconds",
        "ms" => text += ", milliseconds",
        "ns" => text += ", nanoseconds",
        unit => {
            let _ = write!(text, ", {unit}");
        }
    }
    if field.since > 1 {
        let _ = write!(text, ", since format {}", field.since);
    }
    if optional {
        text += ", optional";
    }
    text
}

/// What a field means, and the words that it can be.
fn meaning(field: &FieldInfo) -> String {
    let mut text = one_line(field.doc);
    let (names, end) = match field.type_ {
        Type::Enumeration(names, "") => (names, ", or a number".to_owned()),
        Type::Enumeration(names, prefix) => (names, format!(", or `{prefix}N`")),
        Type::Bits(names) => (names, ", separated by commas, or `none`".to_owned()),
        _ => return text,
    };
    // Whose words are obvious has one.
    if names.len() == 16
        || names
            .iter()
            .any(|name| field.doc.trim() == format!("`{}`.", name.name))
    {
        return text;
    }
    let all_plain = names.iter().all(|name| name.doc.is_empty());
    let between = if all_plain { ", " } else { "; " };
    let words: Vec<String> = names.iter().map(word).collect();
    let _ = write!(text, " {}{end}.", words.join(between));
    text
}

fn word(name: &Name) -> String {
    let doc = one_line(name.doc);
    match doc.strip_suffix('.').unwrap_or(&doc) {
        "" => format!("`{}`", name.name),
        doc => format!("`{}`: {}", name.name, lower(doc)),
    }
}

/// A sentence in the middle of another: without its capital, unless that is a name's.
fn lower(text: &str) -> String {
    let mut letters = text.chars();
    let (first, second) = (letters.next(), letters.next());
    match (first, second) {
        (Some(first), Some(second)) if first.is_uppercase() && !second.is_uppercase() => {
            first.to_lowercase().chain(text.chars().skip(1)).collect()
        }
        _ => text.to_owned(),
    }
}

/// A comment as one line.
fn one_line(doc: &str) -> String {
    doc.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A JSON Schema with a definition for each record: what `--json` prints of it. Records that follow
/// others are elements of these, under further keys.
pub fn json_schema() -> Value {
    let mut definitions = Map::new();
    for info in all() {
        let mut properties = Map::new();
        let mut required = Vec::new();
        rows(info.fields, false, &mut |field, optional| {
            properties.insert(field.key.to_owned(), property(info, field));
            if !optional {
                required.push(Value::from(field.key));
            }
        });
        let name = match info.name {
            "summary" => summary_name(info),
            name => name.to_owned(),
        };
        let definition = json!({
            "description": one_line(info.doc),
            "type": "object",
            "properties": properties,
            "required": required,
        });
        definitions.insert(name, definition);
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Records of ravel",
        "description": "The JSON form of each record. What does not exist is null.",
        "$defs": definitions,
    })
}

/// A summary by the report that it ends, which the first of its fields names.
fn summary_name(info: &Info) -> String {
    let report = info.fields[0].doc.trim().trim_matches(['`', '.']);
    format!("{report}_summary")
}

/// The sets of words that JSON has as in text: one string, with commas between.
const STRINGS: [(&str, &str); 2] = [("page", "flags"), ("stream", "sources")];

/// A field of a record in JSON.
fn property(info: &Info, field: &FieldInfo) -> Value {
    let words = |names: &[Name]| -> Vec<Value> {
        let words = names.iter().filter(|name| name.name != "none");
        words
            .map(|name| Value::from(name.name.to_ascii_lowercase()))
            .collect()
    };
    let mut property = match field.type_ {
        Type::Number => json!({"type": "integer", "minimum": 0}),
        Type::Signed => json!({"type": ["integer", "null"]}),
        Type::OrOff => json!({"type": ["integer", "null"], "minimum": 0}),
        Type::Hex => json!({"type": "string", "pattern": "^0x[0-9a-f]+$"}),
        Type::EtherType => json!({"type": "string", "pattern": "^0x[0-9a-f]{4}$"}),
        Type::Id => json!({"type": ["string", "null"], "pattern": "^[0-9a-f]{16}$"}),
        Type::Flag => json!({"type": "boolean"}),
        Type::Offset => json!({
            "type": "object",
            "properties": {"raw": {"type": "integer"}, "set": {"type": "boolean"}},
            "required": ["raw", "set"],
        }),
        Type::Short | Type::Bytes => json!({"type": "string"}),
        Type::Comm | Type::String | Type::Address | Type::Word | Type::Reason => {
            json!({"type": ["string", "null"]})
        }
        Type::Numbers => json!({"type": "array", "items": {"type": "integer"}}),
        Type::Enumeration(names, "") => {
            json!({"type": ["string", "null"], "examples": words(names)})
        }
        // The directions that are shut.
        Type::Enumeration(_, "shutdown_" | "how_") => json!({"type": "array", "items": {"anyOf": [
            {"enum": ["rd", "wr"]},
            {"type": "string", "pattern": "^(shutdown|how)_[0-9]+$"},
        ]}}),
        Type::Enumeration(names, prefix) => json!({
            "anyOf": [
                {"type": "null"},
                {"enum": words(names)},
                {"type": "string", "pattern": format!("^{prefix}[0-9]+$")},
            ],
        }),
        Type::Bits(_) if STRINGS.contains(&(info.name, field.key)) => json!({"type": "string"}),
        Type::Bits(names) => json!({"type": "array", "items": {"enum": words(names)}}),
        Type::Part(_) => json!({}),
    };
    if let Value::Object(property) = &mut property {
        property.insert("description".to_owned(), meaning(field).into());
        if !field.unit.is_empty() {
            property.insert("unit".to_owned(), field.unit.into());
        }
    }
    property
}
