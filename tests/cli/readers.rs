//! What other readers get: `announce --also` and `export`.

use super::usage::Usage;

#[test]
fn a_layout_is_a_preset_or_a_template() {
    for layout in [
        "skydns",
        "skydns:under_score.local",
        "grpc:",
        "traefik",
        "traefik-udp",
        "registrator:/",
        "/x/{name}=y",
        "/x={ports}",
    ] {
        Usage::announce()
            .with("--also", layout)
            .complains_of("--also");
    }
}

#[test]
fn an_export_has_a_format_a_directory_and_a_hold() {
    Usage::of(&["export"]).complains_of("--format");
    let export = || Usage::of(&["export", "--format", "prometheus"]);
    Usage::of(&["export", "--format", "consul"]).complains_of("--format");
    export().with("--hold", "soon").complains_of("--hold");
    export()
        .with("--prefix", "services")
        .complains_of("--prefix");
}
