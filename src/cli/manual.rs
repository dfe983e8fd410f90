//! `rewarm man`: the manual pages, made from what the commands themselves go by.

#[path = "../bin/cuda-checkpoint/definition.rs"]
pub(super) mod cuda_checkpoint;

use super::Cli;
use anyhow::{Context, Result};
use clap::{Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use rewarm::config::SETTINGS;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Write the manual pages into a folder
#[derive(clap::Args)]
pub(super) struct ManArgs {
    /// the folder, which has to be there
    dir: PathBuf,
}

pub(super) fn run(args: &ManArgs) -> Result<ExitCode> {
    // `rewarm help COMMAND` shows what these pages say.
    let mut rewarm = Cli::command().disable_help_subcommand(true);
    rewarm.build();
    for command in rewarm.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        write(&args.dir, command, SEE_REWARM)?;
    }
    write(&args.dir, &rewarm, "")?;
    let mut tool = cuda_checkpoint::definition();
    tool.build();
    write(&args.dir, &tool, SEE_REWARM)?;
    Ok(ExitCode::SUCCESS)
}

/// Where the settings are told.
const SEE_REWARM: &str = "rewarm";

fn write(dir: &Path, command: &Command, see: &str) -> Result<()> {
    let path = dir.join(Man::new(command.clone()).get_filename());
    let mut page = Vec::new();
    let rendered = render(command, see, &mut page);
    rendered
        .and_then(|()| fs::write(&path, page))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// A page; `see` is the page to look at besides, if there is one.
fn render(command: &Command, see: &str, page: &mut dyn Write) -> io::Result<()> {
    let man = Man::new(command.clone())
        .source(concat!("rewarm ", env!("CARGO_PKG_VERSION")))
        .manual("rewarm");
    let after = command.get_after_help().map(ToString::to_string);
    let after = after.unwrap_or_default();
    let (notes, examples) = after.split_once("Examples:\n").unwrap_or((&after, ""));
    man.render_title(page)?;
    man.render_name_section(page)?;
    synopsis(command).to_writer(page)?;
    man.render_description_section(page)?;
    paragraphs(notes).to_writer(page)?;
    man.render_options_section(page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(page)?;
        environment().to_writer(page)?;
    }
    if !examples.is_empty() {
        as_it_is("EXAMPLES", examples).to_writer(page)?;
    }
    if !see.is_empty() {
        let mut section = Roff::new();
        section.control("SH", ["SEE ALSO"]);
        section.text([bold(see), roman("(1)")]);
        section.to_writer(page)?;
    }
    Ok(())
}

/// How it is called, as `--help` says it.
fn synopsis(command: &Command) -> Roff {
    let usage = command.clone().render_usage().to_string();
    as_it_is("SYNOPSIS", usage.trim_start_matches("Usage:").trim())
}

fn paragraphs(text: &str) -> Roff {
    let mut roff = Roff::new();
    for paragraph in text.split("\n\n").filter(|text| !text.trim().is_empty()) {
        roff.control("PP", []);
        roff.text([roman(paragraph.trim())]);
    }
    roff
}

/// Lines that are not filled.
fn as_it_is(heading: &str, text: &str) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", [heading]).control("nf", []);
    for line in text.lines() {
        roff.text([roman(line)]);
    }
    roff.control("fi", []);
    roff
}

/// The settings.
fn environment() -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["ENVIRONMENT"]);
    for setting in SETTINGS {
        let (range, default) = (setting.range_text(), setting.default_text());
        let flag = setting.flag_text();
        let option = if flag.is_empty() {
            String::new()
        } else {
            format!("; rewarm run {flag}")
        };
        roff.control("TP", []);
        roff.text([bold(setting.name)]);
        let plain = |text: &str| text.replace('`', "");
        roff.text([roman(format!(
            "{} ({range}; default: {}{option})",
            plain(setting.meaning),
            plain(&default)
        ))]);
    }
    roff
}
