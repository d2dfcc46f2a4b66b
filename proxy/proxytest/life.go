package proxytest

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/proxy"
	"github.com/skiff-k8s/skiff/proxy/nettest"
)

// foreign are rules of other programs, which stay as they are and work.
const foreign = `
iptables -A FORWARD -s 203.0.113.99 -j DROP
iptables -t nat -A PREROUTING -p tcp -d 192.0.2.1 --dport 999 -j DNAT --to-destination 10.244.1.5:8080
nft add table inet others
nft add chain inet others input '{ type filter hook input priority 0; }'
nft add rule inet others input tcp dport 4444 drop
`

// life has a mode begin, change, be taken over by the next run, and end.
func life(t *testing.T, backend func() proxy.Backend) {
	w := newWorld(t, backend())
	w.node.Run(t, "sh", "-e", "-c", foreign)
	before := w.node.State(t)
	do := func(what string, f func(b proxy.Backend) error) {
		t.Helper()
		var err error
		w.node.Do(t, func() { err = f(w.backend) })
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	intact := func(want bool, when string) {
		t.Helper()
		do(when, func(b proxy.Backend) error {
			is, err := b.Intact(t.Context())
			if is != want {
				t.Errorf("%s: intact: got %v, want %v", when, is, want)
			}
			return err
		})
	}
	foreignWorks := func() {
		t.Helper()
		if got := w.ask(t, "tcp", w.outside, "192.0.2.1:999", arrival); got != "beside<outside" {
			t.Errorf("a rule of another program: got %s", got)
		}
	}
	answers := func(want string) {
		t.Helper()
		for _, family := range []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol} {
			if got := w.answers(t, "tcp", w.beside, target(family, "cluster"), want); got != want {
				t.Errorf("%s: got %s, want %s", family, got, want)
			}
		}
	}
	w.become(t, table(w, ranges(), nil, []string{"near"}))
	answers("near<beside")
	foreignWorks()
	intact(true, "as applied")
	w.node.Run(t, "nft", "add", "table", "ip", "another")
	intact(true, "another program has made a table")
	w.node.Run(t, "nft", "delete", "table", "ip", "another")
	w.become(t, table(w, ranges(), nil, []string{"far"}))
	answers("far<beside")
	intact(true, "after a change")

	// The next run does not know what this one left.
	w.backend = backend()
	intact(false, "a new run")
	w.become(t, table(w, ranges(), nil, []string{"near", "far"}))
	answers("far<beside|near<beside")
	intact(true, "taken over")
	w.become(t, &proxy.Table{})
	answers("silent")

	w.become(t, table(w, ranges(), allowed("192.0.2.0/24"), []string{"near", "far"}))
	do("remove", func(b proxy.Backend) error { return b.Remove(t.Context()) })
	foreignWorks()
	if left := nettest.Difference(before, w.node.State(t)); left != "" {
		t.Errorf("after the end the node differs from before (+ is left behind):\n%s", left)
	}
	do("remove what is not there", func(b proxy.Backend) error { return b.Remove(t.Context()) })
}
