//! Documentation and JSON Schema are those of the definitions.

use ravel_records::describe::{json_schema, with_tables};
use ravel_records::{
    AnonVmaReport, Batch, ChainsReport, CowReport, LineageReport, PageReport, SkbsReport,
    SocketsReport, WaitersReport,
};
use serde_json::{Value, to_value};

const FORMAT: &str = include_str!("../../../src/report/FORMAT.md");
const EVENTS: &str = include_str!("../../../src/events/EVENTS.md");

#[test]
fn tables_are_current() {
    for (name, document) in [("FORMAT.md", FORMAT), ("EVENTS.md", EVENTS)] {
        let new = with_tables(document).unwrap();
        assert!(new == document, "{name} has old tables: run `make tables`");
    }
}

#[test]
fn marks_that_are_none() {
    for (document, reason) in [
        ("<!-- record 9999 -->\n<!-- end -->", "no record 9999"),
        ("<!-- record 20 -->\n", "has no end"),
    ] {
        let error = with_tables(document).unwrap_err();
        assert!(error.contains(reason), "{error}");
    }
}

/// Whether a value has one of the types that a schema allows.
fn is_of(value: &Value, schema: &Value) -> bool {
    if let Some(any) = schema["anyOf"].as_array() {
        return any.iter().any(|schema| is_of(value, schema));
    }
    if let Some(words) = schema["enum"].as_array() {
        return words.contains(value);
    }
    let is = |name: &Value| match name.as_str() {
        Some("null") => value.is_null(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("string") => value.is_string(),
        Some("array") => value.is_array(),
        Some("object") => value.is_object(),
        _ => panic!("{schema}"),
    };
    let type_ok = match &schema["type"] {
        Value::Array(types) => types.iter().any(is),
        name => is(name),
    };
    let items_ok = match (value, &schema["items"]) {
        (Value::Array(items), schema) if !schema.is_null() => {
            items.iter().all(|item| is_of(item, schema))
        }
        _ => true,
    };
    type_ok && items_ok
}

/// Checks that a JSON object has the fields of a record. Further keys are records within it.
fn check(object: &Value, name: &str, schema: &Value) {
    let definition = &schema["$defs"][name];
    assert!(definition.is_object(), "no definition of {name}");
    for key in definition["required"].as_array().unwrap() {
        let key = key.as_str().unwrap();
        assert!(object.get(key).is_some(), "{name} has no {key}: {object}");
    }
    for (key, property) in definition["properties"].as_object().unwrap() {
        if let Some(value) = object.get(key) {
            // A key that is absent in text is null.
            assert!(
                value.is_null() || is_of(value, property),
                "{name}.{key}: {value}, {property}"
            );
        }
    }
}

macro_rules! sample {
    ($type:ty, $name:literal) => {
        to_value(<$type>::parse(include_bytes!(concat!("samples/", $name))).unwrap()).unwrap()
    };
}

fn each(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

#[test]
fn json_is_that_of_the_schema() {
    let schema = json_schema();
    let anon = sample!(AnonVmaReport, "anon-bgsave-child.txt");
    check(&anon["header"], "report", &schema);
    check(&anon["summary"], "anon_vma_summary", &schema);
    for vma in each(&anon["vmas"]) {
        check(vma, "vma", &schema);
        each(&vma["avcs"]).for_each(|avc| check(avc, "avc", &schema));
    }
    let page = sample!(PageReport, "page-forked.txt");
    check(&page["summary"], "page_summary", &schema);
    for page in each(&page["pages"]) {
        check(page, "page", &schema);
        each(&page["mappers"]).for_each(|mapper| check(mapper, "mapper", &schema));
    }
    let cow = sample!(CowReport, "cow-bgsave-child.txt");
    for vma in each(&cow["vmas"]) {
        each(&vma["shares"]).for_each(|share| check(share, "share", &schema));
    }
    let chains = include_bytes!("samples/chains-three-generations.txt");
    for report in ChainsReport::parse_all(chains).unwrap() {
        let chains = to_value(report).unwrap();
        check(&chains["summary"], "chains_summary", &schema);
        for vma in each(&chains["vmas"]) {
            check(vma, "chain", &schema);
            each(&vma["link"]).for_each(|link| check(link, "link", &schema));
            each(&vma["run"]).for_each(|run| check(run, "run", &schema));
        }
    }
    let lineage = sample!(LineageReport, "lineage-bgsave-child.txt");
    check(&lineage["summary"], "lineage_summary", &schema);
    for process in each(&lineage["processes"]) {
        check(process, "process", &schema);
        check(&process["namespaces"], "namespaces", &schema);
    }
    let sockets = sample!(SocketsReport, "sockets-half-closed.txt");
    check(&sockets["summary"], "sockets_summary", &schema);
    each(&sockets["sockets"]).for_each(|socket| check(socket, "socket", &schema));
    let skbs = sample!(SkbsReport, "skbs-headers.txt");
    check(&skbs["summary"], "skbs_summary", &schema);
    for socket in each(&skbs["sockets"]) {
        for queue in each(&socket["queues"]) {
            check(queue, "queue", &schema);
            each(&queue["skbs"]).for_each(|skb| check(skb, "skb", &schema));
        }
    }
    let waiters = sample!(WaitersReport, "waiters-every-model.txt");
    check(&waiters["summary"], "waiters_summary", &schema);
    for socket in each(&waiters["sockets"]) {
        each(&socket["waiters"]).for_each(|waiter| check(waiter, "waiter", &schema));
    }
    for batch in [
        sample!(Batch, "events-batch.txt"),
        sample!(Batch, "events-network.txt"),
    ] {
        check(&batch["header"], "batch", &schema);
        for event in each(&batch["events"]) {
            check(event, event["event"].as_str().unwrap(), &schema);
        }
    }
}
