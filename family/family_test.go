package family

import (
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestOf(t *testing.T) {
	for text, want := range map[string]corev1.IPFamily{"10.0.0.1": "IPv4", "::ffff:10.0.0.1": "IPv4", "fd00::1": "IPv6", "fe80::1%eth0": "IPv6", "": ""} {
		a, _ := netip.ParseAddr(text)
		if got := Of(a); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func TestParse(t *testing.T) {
	for _, c := range []struct{ text, want, err string }{
		{"10.96.0.0/16", "10.96.0.0/16", ""},
		{"10.96.3.1/16", "10.96.0.0/16", ""},
		{"fd00::/108, 10.96.0.0/16", "fd00::/108,10.96.0.0/16", ""},
		{"10.96.0.0/16,10.97.0.0/16", "", "ranges 10.96.0.0/16,10.97.0.0/16: both are of family IPv4"},
		{"fd00::/108,10.96.0.0/16,fd01::/108", "", "ranges fd00::/108,10.96.0.0/16,fd01::/108: there may be one of each IP family"},
		{"", "", `netip.ParsePrefix(""): no '/'`},
	} {
		r, err := Parse(c.text)
		if err != nil || c.err != "" {
			if err == nil || err.Error() != c.err {
				t.Errorf("%q: got error %v, want %q", c.text, err, c.err)
			}
			continue
		}
		if r.String() != c.want {
			t.Errorf("%q: got %s, want %s", c.text, r, c.want)
		}
	}
	if r := MustParse("fd00::/108,10.96.0.0/16"); r.Families()[0] != "IPv6" || r.Families()[1] != "IPv4" {
		t.Errorf("families: got %v", r.Families())
	}
}
