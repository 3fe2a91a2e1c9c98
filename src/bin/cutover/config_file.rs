//! A file with options: each key is the name of an option without the dashes, and becomes an argument.
//!
//! The command line stays the one definition of what an option means. An option that stands there counts more than the
//! file.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};
use toml::{Table, Value};

/// The option that names the file.
pub(crate) const OPTION: &str = "config";
/// The key of the argument that is no option.
const DIRECTORY: &str = "directory";

/// Why a file cannot be used, in one line.
#[derive(Debug)]
pub(crate) enum ConfigFileError {
    Unreadable(PathBuf, io::Error),
    Syntax { path: PathBuf, line: usize, what: String },
    Key { path: PathBuf, key: String, what: String },
}

impl std::fmt::Display for ConfigFileError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ConfigFileError::Unreadable(path, error) => write!(f, "cannot read {}: {error}", path.display()),
            ConfigFileError::Syntax { path, line, what } => write!(f, "{}, line {line}: {what}", path.display()),
            ConfigFileError::Key { path, key, what } => write!(f, "{}: {key} {what}", path.display()),
        }
    }
}

/// The arguments that the file stands for. `given` is the command line of this verb.
pub(crate) fn arguments(path: &Path, verb: &Command, given: &ArgMatches) -> Result<Vec<OsString>, ConfigFileError> {
    #[expect(
        clippy::disallowed_methods,
        reason = "before the server begins; the generation before waits, with a deadline"
    )]
    let text = std::fs::read_to_string(path).map_err(|error| ConfigFileError::Unreadable(path.to_owned(), error))?;
    let table: Table = text.parse().map_err(|error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        ConfigFileError::Syntax { path: path.to_owned(), line, what: error.message().replace('\n', ", ") }
    })?;
    let mut arguments = Vec::new();
    for (key, value) in &table {
        let wrong =
            |what: &str| ConfigFileError::Key { path: path.to_owned(), key: key.clone(), what: what.to_owned() };
        let option = option(verb, key).ok_or_else(|| wrong("is no option"))?;
        if given.value_source(option.get_id().as_str()) != Some(ValueSource::CommandLine) {
            arguments.extend(of_value(option, key, value).map_err(wrong)?);
        }
    }
    Ok(arguments)
}

fn option<'a>(verb: &'a Command, key: &str) -> Option<&'a Arg> {
    let mut options = verb.get_arguments().filter(|option| option.get_long() != Some(OPTION));
    options.find(|option| match option.get_long() {
        Some(long) => long == key,
        None => option.get_id() == DIRECTORY && key == DIRECTORY,
    })
}

fn of_value(option: &Arg, key: &str, value: &Value) -> Result<Vec<OsString>, &'static str> {
    let argument = |value: &Value| {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Integer(number) => number.to_string(),
            Value::Float(number) => number.to_string(),
            Value::Boolean(_) | Value::Datetime(_) | Value::Array(_) | Value::Table(_) => {
                return Err("needs a text or a number");
            }
        };
        Ok(match option.get_long() {
            Some(long) => format!("--{long}={text}").into(),
            None => Path::new(".").join(text).into(),
        })
    };
    match (option.get_action(), value) {
        (ArgAction::SetTrue, Value::Boolean(true)) => Ok(vec![format!("--{key}").into()]),
        (ArgAction::SetTrue, Value::Boolean(false)) => Ok(vec![]),
        (ArgAction::SetTrue, _) => Err("is true or false"),
        (ArgAction::Append, Value::Array(values)) => values.iter().map(argument).collect(),
        (ArgAction::Set | ArgAction::Append, value) => argument(value).map(|argument| vec![argument]),
        _ => Err("is no option"),
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, FromArgMatches as _, Parser};

    use super::*;

    #[derive(Debug, PartialEq, Parser)]
    struct Options {
        directory: Option<PathBuf>,
        #[arg(long)]
        config: Option<PathBuf>,
        #[arg(long)]
        listen: Vec<String>,
        #[arg(long, value_delimiter = ',')]
        steps: Vec<String>,
        #[arg(long, default_value_t = 3)]
        many: u8,
        #[arg(long)]
        quiet: bool,
    }

    fn read(text: &str, given: &[&str]) -> Result<Options, String> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), text).expect("written");
        let given: Vec<OsString> = [&["program"][..], given].concat().into_iter().map(OsString::from).collect();
        let command = Options::command();
        let matches = command.clone().try_get_matches_from(&given).expect("right");
        let of_file = arguments(file.path(), &command, &matches).map_err(|error| error.to_string());
        let name = format!("{}", file.path().display());
        let of_file = of_file.map_err(|error| error.strip_prefix(&name).unwrap_or(&error).to_owned())?;
        let all = [&given[..1], &of_file, &given[1..]].concat();
        let matches = command.try_get_matches_from(all).map_err(|error| error.to_string())?;
        Options::from_arg_matches(&matches).map_err(|error| error.to_string())
    }

    #[test]
    fn each_key_is_an_option_and_the_command_line_counts_more() {
        let file = "directory = '/srv'\nlisten = ['a:1', 'b:2']\nsteps = '1,2'\nmany = 5\nquiet = true\n";
        let of_file = Options {
            directory: Some("/srv".into()),
            config: None,
            listen: vec!["a:1".into(), "b:2".into()],
            steps: vec!["1".into(), "2".into()],
            many: 5,
            quiet: true,
        };
        assert_eq!(read(file, &[]), Ok(of_file));
        let given = read(file, &["--listen", "c:3", "--many", "7", "/var"]).expect("right");
        assert_eq!((given.listen, given.many), (vec!["c:3".to_owned()], 7));
        assert_eq!(given.directory, Some("/var".into()));
        assert_eq!(read("quiet = false", &[]).map(|options| (options.quiet, options.many)), Ok((false, 3)));
        assert_eq!(read("directory = '-d'", &[]).map(|options| options.directory), Ok(Some("./-d".into())));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, why) in [
            ("listn = 'a:1'", ": listn is no option"),
            ("config = 'other'", ": config is no option"),
            ("help = true", ": help is no option"),
            ("many = [1, 2]", ": many needs a text or a number"),
            ("quiet = 'yes'", ": quiet is true or false"),
            ("[listen]\na = 1", ": listen needs a text or a number"),
        ] {
            assert_eq!(read(text, &[]), Err(why.to_owned()), "{text}");
        }
        let why = read("listen = 'a:1'\nmany = \n", &[]).expect_err("no value");
        assert!(why.starts_with(", line 2: ") && !why.contains('\n'), "{why}");
        let why = read("many = 'lots'", &[]).expect_err("no number");
        assert!(why.contains("invalid value 'lots' for '--many"), "{why}");
        let (command, nowhere) = (Options::command(), Path::new("/nowhere/at/all"));
        let matches = command.clone().try_get_matches_from(["program"]).expect("right");
        let why = arguments(nowhere, &command, &matches).expect_err("no file").to_string();
        assert!(why.starts_with("cannot read /nowhere/at/all: "), "{why}");
    }
}
