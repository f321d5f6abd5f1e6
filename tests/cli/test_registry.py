"""The registry's commands: what they ask, and what they show."""

import json
from typing import Any

import pytest

from longwave.v1 import registry_pb2 as r
from tests.cli.conftest import Run
from tests.cli.fake_engine import FakeEngine

A_SHARE_KEPT_BACK = (
    "--tenant acme --brand b --carrier tmobile --amount 2000 --per day --unit segments "
    "--reserve-percent 20 --reserve-class transactional"
)


def asked(engine: FakeEngine, method: str) -> Any:
    (request,) = [request for name, request in engine.calls if name == method]
    return request


@pytest.mark.parametrize(
    ("arguments", "method", "fields"),
    [
        ("tenant create acme --name Acme", "CreateTenant", {"tenant_id": "acme", "display_name": "Acme"}),
        ("tenant get acme", "GetTenant", {"name": "tenants/acme"}),
        ("tenant update acme --state suspended", "UpdateTenant", {"name": "tenants/acme", "state": 2}),
        (
            "brand create b --tenant acme --name Acme --ein 12-3456789",
            "CreateBrand",
            {"tenant": "tenants/acme", "brand_id": "b", "display_name": "Acme", "ein": "12-3456789"},
        ),
        ("brand get b --tenant tenants/acme", "GetBrand", {"name": "brands/b", "tenant": "tenants/acme"}),
        ("brand list --tenant acme", "ListBrands", {"tenant": "tenants/acme", "page_size": 1000}),
        (
            "campaign create c --tenant acme --brand b --tcr-campaign C1 --use-case 2FA --on-unknown resend",
            "CreateCampaign",
            {"campaign_id": "c", "brand": "brands/b", "tcr_campaign": "C1", "use_case": "2FA", "on_unknown": 1},
        ),
        ("campaign get c", "GetCampaign", {"name": "campaigns/c", "tenant": ""}),
        ("campaign list", "ListCampaigns", {"tenant": ""}),
        ("campaign update c --state PAUSED", "UpdateCampaign", {"name": "campaigns/c", "state": 2, "on_unknown": 0}),
        (
            "number create +12025550123 --tenant acme --campaign c",
            "CreateNumber",
            {"number": "+12025550123", "campaign": "campaigns/c", "tenant": "tenants/acme"},
        ),
        ("number get +12025550123", "GetNumber", {"name": "numbers/+12025550123"}),
        ("number list", "ListNumbers", {}),
        ("number delete +12025550123 --tenant acme", "DeleteNumber", {"name": "numbers/+12025550123"}),
        ("key list --tenant acme", "ListApiKeys", {"tenant": "tenants/acme"}),
        ("key revoke abcdefghijkl", "RevokeApiKey", {"name": "apiKeys/abcdefghijkl"}),
        ("quota list", "ListQuotas", {"tenant": ""}),
        ("quota delete 7", "DeleteQuota", {"name": "quotas/7"}),
    ],
)
def test_a_command_asks_for_what_it_says(
    engine: FakeEngine, run: Run, arguments: str, method: str, fields: dict[str, Any]
) -> None:
    ran = run(*arguments.split())
    assert ran.code == 0, ran.err
    request = asked(engine, method)
    assert {name: getattr(request, name) for name in fields} == fields


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (
            "--tenant acme --number +12025550123 --amount 75 --per minute --unit segments",
            {"scope": r.QUOTA_SCOPE_NUMBER, "subject": "numbers/+12025550123", "amount": 75, "window_ms": 60_000},
        ),
        (
            "--tenant acme --campaign c --amount 10 --per 90s --unit messages --burst 2",
            {"scope": r.QUOTA_SCOPE_CAMPAIGN, "subject": "campaigns/c", "window_ms": 90_000, "unit": 2, "burst": 2},
        ),
        (
            "--tenant acme --campaign c --carrier att --amount 4500 --per minute --unit segments",
            {"scope": r.QUOTA_SCOPE_CAMPAIGN_CARRIER, "subject": "campaigns/c", "carrier": r.CARRIER_ATT},
        ),
        (
            A_SHARE_KEPT_BACK,
            {
                "scope": r.QUOTA_SCOPE_BRAND_CARRIER_DAY, "subject": "brands/b", "carrier": r.CARRIER_TMOBILE,
                "window_ms": 86_400_000, "reserved_percent": 20, "reserved_class": 2,
            },
        ),
        (
            "--provider telnyx --amount 50 --per second --unit messages",
            {"scope": r.QUOTA_SCOPE_PROVIDER, "subject": "providers/telnyx", "window_ms": 1000},
        ),
        (
            "--tenant acme --amount 9 --per hour --unit messages",
            {"scope": r.QUOTA_SCOPE_TENANT, "subject": "tenants/acme", "window_ms": 3_600_000},
        ),
    ],
)  # fmt: skip
def test_a_quota_is_set_in_the_carriers_words(
    engine: FakeEngine, run: Run, arguments: str, wanted: dict[str, Any]
) -> None:
    ran = run("quota", "set", *arguments.split(), "--json")
    assert ran.code == 0, ran.err
    request = asked(engine, "SetQuota")
    assert {name: getattr(request.quota, name) for name in wanted} == wanted
    assert request.tenant == ("" if "--provider" in arguments else "tenants/acme")
    assert ran.json["name"] == "quotas/7"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("--amount 1 --per minute --unit segments", "--tenant TENANT"),
        ("--tenant a --campaign c --brand b --amount 1 --per minute --unit segments", "one of"),
        ("--tenant a --brand b --amount 1 --per day --unit segments", "--carrier tmobile"),
        ("--tenant a --brand b --carrier tmobile --amount 1 --per minute --unit segments", "--per day"),
        ("--tenant a --carrier att --amount 1 --per minute --unit segments", "--carrier goes with"),
        ("--tenant a --provider p --amount 1 --per minute --unit segments", "no tenant's"),
        ("--tenant a --amount 1 --per fortnight --unit segments", "no window"),
        ("--tenant a --amount 1 --per minute --unit words", "segments, messages"),
    ],
)
def test_a_quota_that_cannot_be_is_refused_before_any_call(
    engine: FakeEngine, run: Run, arguments: str, says: str
) -> None:
    ran = run("quota", "set", *arguments.split())
    assert ran.code == 2
    assert says in " ".join(ran.err.replace("│", " ").split())
    assert engine.calls == []


def test_a_key_is_shown_once(engine: FakeEngine, run: Run) -> None:
    ran = run("key", "create", "--tenant", "acme", "--name", "desk", "--expires", "2030-01-01T00:00:00Z")
    assert ran.code == 0
    assert "export LONGWAVE_API_KEY=lw_t_made" in ran.out.splitlines()
    request = asked(engine, "CreateApiKey")
    assert (request.role, request.tenant, request.expire_time.seconds) == (r.ROLE_TENANT, "tenants/acme", 1_893_456_000)
    assert run("key", "create", "--admin", "--json").json["secret"] == "lw_t_made"


@pytest.mark.parametrize("arguments", [(), ("--tenant", "a", "--admin")])
def test_a_key_is_for_someone(run: Run, arguments: tuple[str, ...]) -> None:
    ran = run("key", "create", *arguments)
    assert ran.code == 2
    assert "--admin" in ran.err


def test_a_whole_key_is_not_revoked_from_the_command_line(run: Run, engine: FakeEngine) -> None:
    ran = run("key", "revoke", "lw_t_aaaaaaaaaaaa_secret")
    assert ran.code == 2
    assert "prefix" in ran.err
    assert engine.calls == []


@pytest.mark.usefixtures("engine")
def test_lists_go_through_all_pages(run: Run) -> None:
    ran = run("tenant", "list", "--json")
    assert [tenant["name"] for tenant in ran.json_lines] == ["tenants/one", "tenants/two"]
    table = run("tenant", "list")
    assert [line.split()[0] for line in table.out.splitlines()] == ["tenant", "one", "two"]
    assert run("brand", "list").err == "no brands\n"


def test_a_change_of_nothing_is_refused(run: Run, engine: FakeEngine) -> None:
    assert run("campaign", "update", "c").code == 2
    assert engine.calls == []


@pytest.mark.parametrize("group", ["tenant", "brand", "campaign", "number", "key", "quota", "opt-out"])
def test_each_group_explains_itself(run: Run, group: str) -> None:
    ran = run(group, "--help")
    assert ran.code == 0
    assert "list" in ran.out


@pytest.mark.usefixtures("engine")
def test_opt_outs(run: Run) -> None:
    assert run("opt-out", "add", "+12025550100", "--json").json == {
        "recipient": "+12025550100",
        "source": "OPT_OUT_SOURCE_API",
    }
    assert "may be written to again" in run("opt-out", "remove", "+12025550101").out
    assert json.loads(run("opt-out", "remove", "+12025550100", "--json").out)["removed"] is False
    listed = run("opt-out", "list", "--json")
    assert [entry["recipient"] for entry in listed.json_lines] == ["+12025550100", "+12025550101"]
