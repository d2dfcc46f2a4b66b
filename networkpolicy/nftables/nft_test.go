package nftables

import (
	"encoding/json"
	"strings"
	"testing"
)

// TestNft has the program nft list tables with policies of all kinds. A version that cannot read a rule ends with an
// assertion, and shows no rule of any program then.
func TestNft(t *testing.T) {
	l := newLab(t)
	for i := range 2 {
		manyPolicies(l.world, i, "a", "b")
	}
	l.apply()
	text := l.node.Run(t, "nft", "list", "ruleset")
	for _, f := range families {
		name := map[int]string{32: "ip", 128: "ip6"}[f.bits]
		alone := l.node.Run(t, "nft", "list", "table", name, tableName)
		if !strings.Contains(text, alone) {
			t.Errorf("%s: the table alone is\n%s\nall tables are\n%s", name, alone, text)
		}
		r := render(l.world.Table(), f)
		for chain, p := range r.chains {
			_, rules, found := strings.Cut(alone, "\tchain "+chain+" {\n")
			rules, _, _ = strings.Cut(rules, "\t}\n")
			if got, want := strings.Count(rules, "\n"), len(f.rulesOf(p)); !found || got != want {
				t.Errorf("%s: the chain %s: got %d rules, want %d, in\n%s", name, chain, got, want, alone)
			}
		}
		for _, want := range []string{name + " saddr vmap @egress\n", name + " daddr vmap @ingress\n", hosts["a"][f.bits/128] + " : jump egress-"} {
			if !strings.Contains(alone, want) {
				t.Errorf("%s: got\n%s\nwithout %q", name, alone, want)
			}
		}
	}
	if printed := l.node.Run(t, "nft", "-j", "list", "ruleset"); !json.Valid([]byte(printed)) {
		t.Errorf("as JSON: got %q", printed)
	}
}
