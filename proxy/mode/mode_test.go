package mode

import (
	"errors"
	"strings"
	"testing"

	"github.com/skiff-k8s/skiff/proxy"
)

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
		if got := (Mode{Name: name}).ByIPVS(); got != want {
			t.Errorf("%s: got %v", name, got)
		}
	}
}
