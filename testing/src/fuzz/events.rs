//! Frames, stored bodies, and the JSON form of events.

use serde_json::Value;
use tinygate::config::Config;
use tinygate::events::stored::frame::{Assembler, Frame};
use tinygate::events::stored::{Form, KINDS, decode, encode_into};
use tinygate::events::{Event, Policy, Record};
use tinygate_words::{describe, explain};

/// Reads, joins and decodes a sequence of frames.
pub fn frames(data: &[u8]) {
    let mut assembler = Assembler::default();
    let mut rest = data;
    while let Ok((frame, after)) = Frame::read(rest) {
        assert!(after.len() < rest.len());
        let skimmed = Frame::skim(rest);
        assert_eq!(skimmed, Some((frame, after)), "read and skim agree");
        let mut written = Vec::new();
        frame.write(&mut written);
        let (again, nothing) = match Frame::read(&written) {
            Ok(read) => read,
            Err(error) => {
                assert!(written.is_empty(), "a frame that was written: {error}");
                return;
            }
        };
        assert_eq!((again, nothing.len()), (frame, 0));
        rest = after;
        match assembler.push(&frame) {
            Ok(Some(stored)) => {
                if let Ok(event) = stored.decode() {
                    survives(&event);
                }
            }
            Ok(None) => {}
            Err(_) => break,
        }
    }
}

/// Decodes a body; the first two bytes give its kind and version.
pub fn stored(data: &[u8]) {
    let Some(([kind, version], body)) = data.split_first_chunk::<2>() else {
        return;
    };
    let known = KINDS.get(usize::from(*kind) % KINDS.len());
    let form = Form {
        kind: known.map_or(0, |known| known.number),
        version: u16::from(*version),
    };
    if let Ok(event) = decode(form, body) {
        survives(&event);
    }
}

/// Reads events, policies and configs in their JSON form.
pub fn json(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(event) = serde_json::from_str::<Event>(text) {
        survives(&event);
    }
    if let Ok(record) = serde_json::from_str::<Record>(text) {
        let written = serde_json::to_string(&record).unwrap_or_default();
        assert_eq!(serde_json::from_str(&written).ok(), Some(record));
    }
    if let Ok(policy) = serde_json::from_str::<Policy>(text) {
        let written = serde_json::to_string(&policy).unwrap_or_default();
        assert_eq!(serde_json::from_str(&written).ok(), Some(policy));
    }
    if let Ok(value) = serde_json::from_str::<Value>(text)
        && let Ok(config) = Config::from_json(&value)
    {
        assert_eq!(Config::from_json(&config.to_json()).ok(), Some(config));
    }
}

/// Checks that an event survives a round trip through its stored form and through JSON.
fn survives(event: &Event) {
    let mut body = Vec::new();
    // A document that is nested too deeply is rejected here.
    if let Ok(form) = encode_into(event, &mut body) {
        assert_eq!(decode(form, &body).as_ref(), Ok(event));
    }
    // Compare the text: JSON has only one NaN, while the log keeps the bits of each.
    let text = serde_json::to_string(event).unwrap_or_default();
    let read = serde_json::from_str::<Event>(&text).ok();
    let again = read.and_then(|event| serde_json::to_string(&event).ok());
    assert_eq!(again, Some(text));
    let _ = (describe(event), explain(event, None));
}
