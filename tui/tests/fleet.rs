//! The screen of a fleet, as text: without colours, in ASCII.

use std::time::Duration;

use crossterm::event::{Event, KeyCode, KeyEvent, KeyModifiers};
use huddle_model::fleet::{
    FLEET_OVERVIEW_SCHEMA, FamilyOnHost, FamilyOverview, FleetOverview, HostOverview, MoveOverview,
};
use huddle_tui::{Action, Charset, ColourMode, FleetApp, KeyMap, Options, Palette, picture};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// So many hosts with two systems, of which every other host has one, and an application on each third one.
fn fleet(hosts: usize, families: usize, moves: usize) -> FleetOverview {
    let host = |number: usize| HostOverview {
        name: format!("host{number:02}"),
        vms: 4 + number as u64 % 3,
        held_bytes: 12 * GIB,
        distinct_bytes: 12 * GIB - (number as u64 * 7 % 11) * 512 * MIB,
    };
    let family = |number: usize| FamilyOverview {
        bytes: (900 - 13 * number as u64) * MIB,
        vms: 40 - number as u64 % 40,
        hosts: (0..hosts)
            .filter(|host| host % (number % 3 + 1) == 0)
            .map(|host| FamilyOnHost {
                host,
                bytes: (900 - 13 * number as u64) * MIB * (1 + host as u64 % 4) / 4,
                vms: 2,
            })
            .collect(),
    };
    let one = |number: usize| MoveOverview {
        vm: format!("vm{number}"),
        from: "host01".into(),
        to: "host02".into(),
        saved_bytes: (300 - 100 * number as i64) * MIB as i64,
        memory_bytes: 4 * GIB,
    };
    FleetOverview {
        schema: FLEET_OVERVIEW_SCHEMA.into(),
        hosts: (0..hosts).map(host).collect(),
        families: (0..families).map(family).collect(),
        moves: (0..moves).map(one).collect(),
        saved_more_standard_error_bytes: 21 * MIB,
        left_out: vec!["host \"x\" gets no VM, since it is not known how much it may hold".into()],
    }
}

fn app(size: (u16, u16), overview: FleetOverview) -> FleetApp {
    let options =
        Options { colour: ColourMode::NoColour, charset: Charset::Ascii, size, tick: Duration::from_secs(1) };
    FleetApp::new(options, KeyMap::default(), Palette::default(), "fleet.json".into(), overview)
}

fn press(app: &mut FleetApp, codes: &[KeyCode]) -> Option<Action> {
    let mut last = None;
    for code in codes {
        last = app.on_event(&Event::Key(KeyEvent::new(*code, KeyModifiers::NONE)));
    }
    last
}

fn screen(size: (u16, u16), overview: FleetOverview, codes: &[KeyCode]) -> String {
    let mut app = app(size, overview);
    press(&mut app, codes);
    picture::text(&app.render())
}

#[test]
fn each_part_of_a_fleet() {
    use KeyCode::{Char, Down, Right};
    for (width, height) in [(80, 24), (120, 40)] {
        for (part, codes) in
            [("families", &[Down, Down, Right][..]), ("hosts", &[Char('2'), Down]), ("moves", &[Char('3')])]
        {
            let name = format!("fleet_{part}_{width}x{height}");
            insta::assert_snapshot!(name, screen((width, height), fleet(7, 5, 4), codes));
        }
    }
}

#[test]
fn many_hosts_have_narrow_columns_and_the_selection_stays_on_the_screen() {
    let mut codes = vec![KeyCode::End];
    codes.extend([KeyCode::Right; 45]);
    insta::assert_snapshot!("fleet_many_80x24", screen((80, 24), fleet(48, 60, 0), &codes));
}

#[test]
fn an_empty_fleet_says_so() {
    for code in [KeyCode::Char('1'), KeyCode::Char('3')] {
        let text = screen((60, 15), FleetOverview::default(), &[code]);
        assert!(text.contains("0 hosts, 0 VMs"), "{text}");
        assert!(
            text.contains("no contents are held by many VMs") || text.contains("no move within the limits"),
            "{text}"
        );
    }
}

#[test]
fn keys_quit_save_and_switch_and_any_size_is_drawn() {
    let mut app = app((80, 24), fleet(7, 5, 2));
    assert_eq!(press(&mut app, &[KeyCode::Char('q')]), Some(Action::Quit));
    assert_eq!(press(&mut app, &[KeyCode::Char('W')]), Some(Action::SaveSvg));
    assert_eq!(press(&mut app, &[KeyCode::Char('a')]), None);
    assert!(picture::text(&app.render()).contains("this key has no meaning here"));
    press(&mut app, &[KeyCode::Tab, KeyCode::Tab, KeyCode::Tab, KeyCode::BackTab]);
    assert!(picture::text(&app.render()).contains("[3 moves]"));
    for (width, height) in [(0, 0), (1, 1), (20, 5), (60, 15), (61, 15), (300, 100)] {
        app.on_event(&Event::Resize(width, height));
        for code in ['1', '2', '3'] {
            press(&mut app, &[KeyCode::Char(code), KeyCode::PageDown, KeyCode::Right]);
            app.render();
        }
    }
}

/// Names and figures come from other hosts.
#[test]
fn hostile_names_are_harmless() {
    let mut overview = fleet(2, 1, 1);
    overview.hosts[0].name = "a\u{1b}[2J\n".into();
    (overview.hosts[0].held_bytes, overview.hosts[1].held_bytes) = (u64::MAX, u64::MAX);
    overview.moves[0].saved_bytes = i64::MIN;
    overview.moves[0].vm = "\u{1b}]0;x\u{7}".into();
    for code in ['1', '2', '3'] {
        let text = screen((80, 24), overview.clone(), &[KeyCode::Char(code)]);
        assert!(!text.contains('\u{1b}') && !text.contains('\u{7}'), "{text:?}");
    }
}
