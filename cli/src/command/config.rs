//! `config init`, `config check`, `config show`.

use std::path::Path;

use tinygate::config::{self, Config};
use tinygate::presets::Preset;

use super::shared::overrides;
use crate::args::{CheckArgs, InitArgs, PresetName, ShowArgs};
use crate::exit::Exit;
use crate::output;

pub fn init(args: &InitArgs) -> anyhow::Result<Exit> {
    let preset = match args.preset {
        PresetName::Seed => Preset::Seed,
        PresetName::Strict => Preset::Strict,
    };
    output::data(&config::init(preset))?;
    Ok(Exit::Done)
}

pub fn check(args: &CheckArgs) -> anyhow::Result<Exit> {
    let config = Config::load(&args.file, &overrides(&args.set)?)?.config;
    let name = if args.file == Path::new(config::STDIN) {
        "the config".to_owned()
    } else {
        format!("`{}`", args.file.display())
    };
    let stages: Vec<String> = config
        .policy
        .stages
        .iter()
        .map(|stage| format!("`{}`", stage.name))
        .collect();
    output::say(&format!(
        "{name} is valid; its stages are {}",
        stages.join(", ")
    ));
    Ok(Exit::Done)
}

pub fn show(args: &ShowArgs) -> anyhow::Result<Exit> {
    let Some(file) = &args.file else {
        return show_keys();
    };
    let loaded = Config::load(file, &overrides(&args.set)?)?;
    output::data(&loaded.config.to_toml(&loaded.given))?;
    Ok(Exit::Done)
}

/// Every key with its meaning, unit and default.
fn show_keys() -> anyhow::Result<Exit> {
    show_rows(config::describe())?;
    output::data_line("")?;
    output::data_line("# in the table of a custom stage, which is one that sets `loss`")?;
    show_rows(config::describe_custom())?;
    Ok(Exit::Done)
}

fn show_rows(rows: Vec<config::KeyRow>) -> anyhow::Result<()> {
    for row in rows {
        output::data_line(&format!("{} ({})", row.key, row.kind))?;
        output::data_line(&format!("    {}", row.meaning))?;
        let unit = if row.unit.is_empty() || row.default.starts_with("none") {
            String::new()
        } else {
            format!(" {}", row.unit)
        };
        output::data_line(&format!("    default: {}{unit}", row.default))?;
        output::data_line(&format!("    on resume: {}", row.on_resume))?;
    }
    Ok(())
}
