//! The user that runs this process, for the log.

use rustix::process::geteuid;

/// The name in the environment, else the user's name in the system, else `uid N`.
pub fn name() -> String {
    let named = |key: &str| std::env::var(key).ok().filter(|name| !name.is_empty());
    named("USER")
        .or_else(|| named("LOGNAME"))
        .unwrap_or_else(|| {
            let uid = geteuid().as_raw();
            let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
            name_in(&users, uid).unwrap_or_else(|| format!("uid {uid}"))
        })
}

/// The name of a user in the text of `/etc/passwd` (`name:password:uid:...`).
fn name_in(users: &str, uid: u32) -> Option<String> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let of = fields.nth(1)?.parse::<u32>().ok()?;
        (of == uid).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::name_in;

    #[test]
    fn a_user_is_found_by_number() {
        let users = "root:x:0:0:root:/root:/bin/bash\n# no user\nada:x:1000:1000::/home/ada:/bin/sh\n+::::::\n";
        let check = |uid: u32, want: Option<&str>| {
            assert_eq!(name_in(users, uid).as_deref(), want, "{uid}");
        };
        check(0, Some("root"));
        check(1000, Some("ada"));
        check(1001, None);
    }
}
