package cluster

import (
	"net/netip"
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	tests := []struct {
		name               string
		nodes              int
		services, pods, at string
		want               string // part of the error, empty for none
	}{
		{name: "defaults"},
		{name: "fewer than no nodes", nodes: -1, want: "cannot have -1 nodes"},
		{name: "pods of IPv6", pods: "fd00::/64", want: "the pod range fd00::/64 is not one of IPv4"},
		{name: "pods among Services", pods: "10.96.0.0/20", want: "the pod range 10.96.0.0/20 overlaps with the Service range 10.96.0.0/16"},
		{name: "nodes among pods", at: "10.244.9.0/24", want: "the node range 10.244.9.0/24 overlaps with the pod range 10.244.0.0/16"},
		{name: "no address for DNS", services: "10.96.0.0/29", want: "the Service range 10.96.0.0/29 is too small"},
		{name: "pods of two nodes in one node's range", nodes: 2, pods: "10.244.0.0/24", want: "it must be at least a /23"},
		{name: "too few addresses for nodes", nodes: 6, at: "172.30.0.0/29", want: "it must be at least a /28"},
	}
	prefix := func(text, otherwise string) netip.Prefix {
		if text == "" {
			text = otherwise
		}
		return netip.MustParsePrefix(text)
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := Config{
				Nodes: test.nodes, ServiceCIDR: prefix(test.services, "10.96.0.0/16"),
				PodCIDR: prefix(test.pods, "10.244.0.0/16"), NodeCIDR: prefix(test.at, "172.30.0.0/24"),
			}
			err := c.check()
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}
