package mode

import (
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/proxy"
	"github.com/skiff-k8s/skiff/proxy/nettest"
)

// needs skips a test where the kernel lacks something for one of the modes. In the guest it has all.
func needs(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := Choose(name); err != nil {
			if os.Getenv("SKIFF_GUEST") != "" {
				t.Fatal(err)
			}
			t.Skipf("make test-guest PACKAGES=./proxy/mode runs this: %v", err)
		}
	}
}

// TestChoose has a host that lacks something for the best mode.
func TestChoose(t *testing.T) {
	all := modes
	t.Cleanup(func() { modes = all })
	lacking := func() error { return errors.New("no such kernel module") }
	none := func() proxy.Backend { return nil }
	modes = []Mode{
		{Name: "best", Available: lacking, New: none},
		{Name: "iptables", Available: func() error { return nil }, New: none},
		{Name: "last", Available: func() error { return nil }, New: none},
	}
	for name, test := range map[string]struct{ want, err string }{
		"":         {want: "iptables"},
		"auto":     {want: "iptables"},
		"iptables": {want: "iptables"},
		"last":     {want: "last"},
		"best":     {err: "proxy mode best: no such kernel module"},
		"ipvs/x":   {err: `there is no scheduler "x" of IPVS; there are rr, `},
		"last/rr":  {err: "proxy mode last has no schedulers"},
		"ipvsx":    {err: `there is no proxy mode "ipvsx"; there are best, iptables, last and auto`},
	} {
		got, err := Choose(name)
		if got.Name != test.want || (err == nil) != (test.err == "") || err != nil && !strings.Contains(err.Error(), test.err) {
			t.Errorf("%q: got %q (%v), want %q (%s)", name, got.Name, err, test.want, test.err)
		}
	}
	modes[1].Available, modes[2].Available = lacking, lacking
	if got, err := Choose("auto"); err == nil || !strings.Contains(err.Error(), "proxy mode last: no such kernel module") {
		t.Errorf("a host that lacks everything: got %q (%v), want all that it lacks", got.Name, err)
	}
}

func TestByIPVS(t *testing.T) {
	for name, want := range map[string]bool{"ipvs": true, "ipvs/wlc": true, "iptables": false, "ipvsx": false} {
		if got := ByIPVS(name); got != want {
			t.Errorf("%s: got %v", name, got)
		}
	}
}

// TestFirewall has a host whose firewalls drop what is forwarded: that is told at the start of each mode, and what they
// have stays as it is.
func TestFirewall(t *testing.T) {
	for name, firewall := range map[string]struct{ script, note string }{
		"none":                 {script: "true"},
		"nftables":             {"nft add table inet fw; nft add chain inet fw passing '{ type filter hook forward priority 0; policy drop; }'", "the chain passing of the table inet fw drops "},
		"nftables, what comes": {script: "nft add table inet fw; nft add chain inet fw in '{ type filter hook input priority 0; policy drop; }'"},
		"iptables":             {"iptables -P FORWARD DROP; iptables -A FORWARD -s 192.0.2.0/24 -j ACCEPT", "iptables drops what is forwarded (-P FORWARD DROP)"},
		"ip6tables":            {"ip6tables -P FORWARD DROP", "ip6tables drops what is forwarded (-P FORWARD DROP)"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, m := range []string{"iptables", "nftables"} {
				n := nettest.New(t)
				n.Run(t, "sh", "-e", "-c", firewall.script)
				before := n.State(t)
				var notes []string
				var err error
				n.Do(t, func() {
					var chosen Mode
					if chosen, err = Choose(m); err != nil {
						return
					}
					var backend proxy.Backend
					backend, err = chosen.Start(t.Context(), func(note string) { notes = append(notes, note) })
					if err == nil {
						err = errors.Join(backend.Apply(t.Context(), &proxy.Table{}), Clean(t.Context(), ""))
					}
				})
				if err != nil {
					t.Fatalf("%s: %v", m, err)
				}
				told := len(notes) == 1 && firewall.note != "" && strings.HasPrefix(notes[0], firewall.note)
				if !told && (len(notes) > 0 || firewall.note != "") {
					t.Errorf("%s: told %q, want %q", m, notes, firewall.note)
				}
				if changed := nettest.Difference(before, n.State(t)); changed != "" {
					t.Errorf("%s: the host differs:\n%s", m, changed)
				}
			}
		})
	}
}

// TestChangeOfMode starts each mode where another was killed: nothing of that one is left, and what a mode of its own
// start would have is there.
func TestChangeOfMode(t *testing.T) {
	table := &proxy.Table{Pods: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}, Rules: []*proxy.Rule{{
		Name: "ns/s", Protocol: corev1.ProtocolTCP, Family: corev1.IPv4Protocol,
		Fronts:  []proxy.Front{{Kind: proxy.ClusterIP, Addr: netip.MustParseAddrPort("10.96.0.7:80")}},
		Cluster: []netip.AddrPort{netip.MustParseAddrPort("10.244.0.5:8080")},
	}}}
	for _, names := range [][2]string{
		{"iptables", "nftables"}, {"nftables", "iptables"}, {"iptables", "ipvs"}, {"ipvs", "iptables"}, {"nftables", "ipvs"}, {"ipvs", "nftables"},
	} {
		t.Run(names[0]+" to "+names[1], func(t *testing.T) {
			needs(t, names[:]...)
			if changed := nettest.Difference(stateAfter(t, table, names[1]), stateAfter(t, table, names[0], names[1])); changed != "" {
				t.Errorf("the node differs from one that never had the other mode:\n%s", changed)
			}
		})
	}
}

// stateAfter is the state of a node on which the modes of the steps were started, one after the other.
func stateAfter(t *testing.T, table *proxy.Table, steps ...string) string {
	t.Helper()
	n := nettest.New(t)
	for _, name := range steps {
		var err error
		n.Do(t, func() {
			var chosen Mode
			if chosen, err = Choose(name); err != nil {
				return
			}
			var backend proxy.Backend
			if backend, err = chosen.Start(t.Context(), func(string) {}); err == nil {
				err = backend.Apply(t.Context(), table)
			}
		})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	return n.State(t)
}
