package cluster

import (
	"net/netip"
	"testing"
)

func TestConflict(t *testing.T) {
	pods := netip.MustParsePrefix("10.244.0.0/16")
	for _, test := range []struct {
		name, claim string
		want        bool
	}{
		{"an address of the machine", "10.244.7.1/32", true},
		{"a route to the same range", "10.244.0.0/16", true},
		{"a route to a part of it", "10.244.128.0/17", true},
		{"a data center around it", "10.0.0.0/8", false},
		{"the default route", "0.0.0.0/0", false},
		{"a neighbour", "10.245.0.0/16", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			claims := []claim{{prefix: netip.MustParsePrefix("192.0.2.1/32")}, {prefix: netip.MustParsePrefix(test.claim)}}
			if got := conflict(pods, claims); (got != nil) != test.want {
				t.Errorf("conflict: %v, want %v", got, test.want)
			}
		})
	}
}
