//! The options that come from the table of settings.

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use rewarm::config::{BadValue, Flag, FlagValue, SETTINGS, Setting, Settings};
use std::env;
use std::ffi::{OsStr, OsString};
use std::marker::PhantomData;

/// Settings given as options, as environment variables.
#[derive(Clone, Debug)]
pub(super) struct SettingFlags<C>(Vec<(&'static str, OsString)>, PhantomData<C>);

/// Which settings a command has options for.
pub(super) trait Choice {
    /// Whether this is one of them.
    fn has(setting: &Setting) -> bool;
}

/// Every setting.
#[derive(Clone, Debug)]
pub(super) enum All {}

/// The settings of the lanes.
#[derive(Clone, Debug)]
pub(super) enum Lanes {}

impl Choice for All {
    fn has(_: &Setting) -> bool {
        true
    }
}

impl Choice for Lanes {
    fn has(setting: &Setting) -> bool {
        const NAMES: [&str; 3] = [
            "CRIU_CUDA_STREAMS",
            "CRIU_CUDA_CHUNK_MB",
            "REWARM_STAGING_MB",
        ];
        NAMES.contains(&setting.name)
    }
}

impl<C> SettingFlags<C> {
    /// The settings that hold: the options' and those in the environment.
    ///
    /// # Errors
    /// The first bad one: here is somebody who sees it.
    pub(super) fn settings(&self) -> Result<Settings, BadValue> {
        Settings::strict(|name| {
            self.get(name)
                .map(OsStr::to_owned)
                .or_else(|| env::var_os(name))
        })
    }

    /// What the options say about a variable.
    pub(super) fn get(&self, name: &str) -> Option<&OsStr> {
        self.0
            .iter()
            .find(|pair| pair.0 == name)
            .map(|pair| pair.1.as_os_str())
    }

    /// Every variable that the options set.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&'static str, &OsStr)> {
        self.0
            .iter()
            .map(|(name, value)| (*name, value.as_os_str()))
    }
}

impl<C: Choice> Args for SettingFlags<C> {
    fn augment_args(command: Command) -> Command {
        command.args(
            SETTINGS
                .iter()
                .filter(|setting| C::has(setting))
                .filter_map(|setting| Some(argument(setting, setting.flag?))),
        )
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn argument(setting: &'static Setting, flag: Flag) -> Arg {
    let help = format!(
        "{} [{}; default: {}]",
        without_value(setting.meaning),
        setting.name,
        setting.default_text()
    );
    let argument = Arg::new(setting.name).long(flag.long).help(help);
    match flag.value {
        FlagValue::Implied(_) => argument.action(ArgAction::SetTrue),
        FlagValue::Named(name) => argument.value_name(name).value_parser(
            OsStringValueParser::new().try_map(|text| setting.check(&text).map(|()| text)),
        ),
    }
}

/// `--prewarm` needs no "1: " in front of what it does.
fn without_value(meaning: &str) -> &str {
    meaning.trim_start_matches("0: ").trim_start_matches("1: ")
}

impl<C: Choice> FromArgMatches for SettingFlags<C> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let ours = SETTINGS.iter().filter(|setting| C::has(setting));
        let given = ours.filter_map(|setting| {
            let value = match setting.flag?.value {
                FlagValue::Implied(value) => matches.get_flag(setting.name).then(|| value.into()),
                FlagValue::Named(_) => matches.get_one::<OsString>(setting.name).cloned(),
            };
            Some((setting.name, value?))
        });
        Ok(SettingFlags(given.collect(), PhantomData))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
