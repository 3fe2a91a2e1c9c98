//! The names of instances, and the files of their control sockets.

/// The maximum length of a name, in bytes.
const LENGTH_MAX: usize = 64;

/// The extension of the file of a control socket.
const ENDING: &str = ".sock";

/// Checks that `name` can be the name of an instance: it becomes a file name, and appears in texts for people.
///
/// # Errors
/// Has the bad name and the names that are allowed.
pub(crate) fn check(name: &str) -> Result<(), BadName> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._:@[]-".contains(c);
    if (1..=LENGTH_MAX).contains(&name.len()) && !name.starts_with('.') && name.chars().all(allowed) {
        return Ok(());
    }
    Err(BadName(name.to_owned()))
}

/// A text that cannot be the name of an instance.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} cannot be the name of an instance: it must be 1 to {LENGTH_MAX} of the characters \
     A-Z a-z 0-9 . _ : @ [ ] - and not begin with a dot"
)]
pub(crate) struct BadName(String);

/// The file name of the control socket of the instance with this name.
pub(crate) fn file_name(name: &str) -> String {
    format!("{name}{ENDING}")
}

/// The instance whose control socket has this file name; `None` if that is the name of something else.
pub(crate) fn of_file(file_name: &str) -> Option<&str> {
    file_name.strip_suffix(ENDING).filter(|name| check(name).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_units_can_be_names() {
        for name in ["web", "127.0.0.1:8080", "[::1]:80", "app@blue", "a", "x_y-z.1", &"n".repeat(64)] {
            assert_eq!(check(name), Ok(()));
            assert_eq!(of_file(&file_name(name)), Some(name));
        }
    }

    #[test]
    fn what_leads_elsewhere_or_cannot_be_read_is_refused_by_name() {
        for name in ["", ".", "..", ".hidden", "../web", "a/b", "a b", "a\nb", "a\0", "ä", &"n".repeat(65)] {
            let error = check(name).expect_err(name);
            assert!(error.to_string().contains(&format!("{name:?}")), "{error}");
            assert_eq!(of_file(&file_name(name)), None);
        }
        for file in ["web", "web.socket", "web.sock.tmp", ".sock", ".web.sock"] {
            assert_eq!(of_file(file), None, "{file}");
        }
    }
}
