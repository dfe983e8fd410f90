//! The options that come from the table of settings.

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use rewarm::config::{Flag, FlagValue, SETTINGS, Setting};
use std::ffi::{OsStr, OsString};

/// Settings given as options, as environment variables.
#[derive(Clone, Debug, Default)]
pub(super) struct SettingFlags(Vec<(&'static str, OsString)>);

impl SettingFlags {
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

impl Args for SettingFlags {
    fn augment_args(command: Command) -> Command {
        command.args(
            SETTINGS
                .iter()
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

impl FromArgMatches for SettingFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = SETTINGS.iter().filter_map(|setting| {
            let value = match setting.flag?.value {
                FlagValue::Implied(value) => matches.get_flag(setting.name).then(|| value.into()),
                FlagValue::Named(_) => matches.get_one::<OsString>(setting.name).cloned(),
            };
            Some((setting.name, value?))
        });
        Ok(SettingFlags(given.collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
