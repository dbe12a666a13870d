//! An event as a job.

use ravel_records::Event;
use serde::Serialize;
use serde_json::{Map, Value};
use uuid::Uuid;

use ravel_common::origin::{Origin, Told};

/// What a worker of Laravel's needs to know of a job, and its data.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Job<'a> {
    uuid: String,
    display_name: String,
    job: &'a str,
    max_tries: Option<u32>,
    max_exceptions: Option<u32>,
    fail_on_timeout: bool,
    backoff: Option<u32>,
    timeout: Option<u32>,
    data: Map<String, Value>,
    id: String,
    attempts: u32,
}

/// What names an event among all of its stream's, also where that was removed and made again.
pub fn name(event: &Event) -> String {
    format!("{}:{}", event.seq(), event.time())
}

/// An event as a job, for that handler. The same event gives the same job, by every byte.
pub fn job(origin: &Origin, event: &Event, handler: &str) -> serde_json::Result<Vec<u8>> {
    // A machine may be renamed, or have several names: its boot has one id.
    let Origin { boot, stream, .. } = origin;
    let name = format!("{boot}/{stream}/{}", name(event));
    let uuid = Uuid::new_v5(&NAMESPACE, name.as_bytes());
    let data = data(&Told { origin, event })?;
    let kind = data.get("event").and_then(Value::as_str);
    serde_json::to_vec(&Job {
        uuid: uuid.hyphenated().to_string(),
        display_name: format!("ravel {}", kind.unwrap_or_default()),
        job: handler,
        max_tries: None,
        max_exceptions: None,
        fail_on_timeout: false,
        backoff: None,
        timeout: None,
        data,
        id: uuid.simple().to_string(),
        attempts: 0,
    })
}

/// Names made from names of ravel's events.
const NAMESPACE: Uuid = Uuid::from_u128(0x7261_7665_6c00_4000_8000_6576_656e_7473);

/// A record's values as text, as the module writes them: a worker that decodes and encodes a job by Redis' own
/// JSON would round large numbers, and make an object of an empty list.
fn data(told: &Told<'_>) -> serde_json::Result<Map<String, Value>> {
    let Value::Object(mut data) = serde_json::to_value(told)? else {
        return Ok(Map::new());
    };
    // How often the kernel had to hand it out is not a matter of the job.
    data.remove("attempt");
    for value in data.values_mut() {
        match value {
            Value::Number(number) => *value = number.to_string().into(),
            Value::Array(of) => *value = joined(of).into(),
            _ => {}
        }
    }
    Ok(data)
}

fn joined(values: &[Value]) -> String {
    match values {
        [] => "none".to_owned(),
        values => {
            let word = |value: &Value| match value {
                Value::String(word) => word.clone(),
                other => other.to_string(),
            };
            let words: Vec<_> = values.iter().map(word).collect();
            words.join(",")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ravel_records::{Exec, Loss};

    fn origin() -> Origin {
        Origin {
            host: "web1".into(),
            boot: "0b6ad4d8-6e33-4f21-a2a5-0d2b6bb71ed3".into(),
            stream: "builds".into(),
        }
    }

    fn exec() -> Exec {
        Exec {
            seq: 7,
            attempt: 2,
            time: 1_234_567_890_123_456,
            cpu: 1,
            pid: 812,
            tid: 812,
            born: 1_234_567_890_000_000,
            comm: "make".into(),
            line: vec![],
            file: "/usr/bin/make".into(),
            file_cut: false,
        }
    }

    #[test]
    fn an_event_as_a_job() {
        let text = job(&origin(), &Event::Exec(exec()), "App\\Kernel@handle").unwrap();
        let pretty: Value = serde_json::from_slice(&text).unwrap();
        insta::assert_snapshot!(serde_json::to_string_pretty(&pretty).unwrap());
        assert!(text.starts_with(b"{\"uuid\":"));
        assert!(text.ends_with(b",\"attempts\":0}"));
    }

    #[test]
    fn the_same_event_is_the_same_job_and_another_is_not() {
        let bytes = |exec: Exec| job(&origin(), &Event::Exec(exec), "A@b").unwrap();
        let first = bytes(exec());
        assert_eq!(
            bytes(Exec {
                attempt: 9,
                ..exec()
            }),
            first
        );
        let id = |text: &[u8]| serde_json::from_slice::<Value>(text).unwrap()["id"].clone();
        assert_eq!(id(&first).as_str().map(str::len), Some(32));
        assert_ne!(id(&bytes(Exec { seq: 8, ..exec() })), id(&first));
        assert_ne!(id(&bytes(Exec { time: 8, ..exec() })), id(&first));
        let at = |origin: Origin| id(&job(&origin, &Event::Exec(exec()), "A@b").unwrap());
        let elsewhere = Origin {
            boot: "5c0d7b4e-0000-4f21-a2a5-0d2b6bb71ed3".into(),
            ..origin()
        };
        assert_ne!(at(elsewhere), id(&first));
        let renamed = Origin {
            host: "web2".into(),
            ..origin()
        };
        assert_eq!(at(renamed), id(&first));
    }

    #[test]
    fn a_loss_is_a_job_too() {
        let loss = Event::Loss(Loss {
            seq: 3,
            attempt: 1,
            time: 5,
            last: 9,
            cpu: 0,
            count: 12,
        });
        let text = job(&origin(), &loss, "A@b").unwrap();
        let job: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(job["data"]["event"], "loss");
        assert_eq!(job["data"]["count"], "12");
        assert_eq!(job["displayName"], "ravel loss");
    }
}
