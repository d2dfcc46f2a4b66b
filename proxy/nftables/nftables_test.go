package nftables_test

import (
	"testing"

	"github.com/skiff-k8s/skiff/proxy"
	"github.com/skiff-k8s/skiff/proxy/nftables"
	"github.com/skiff-k8s/skiff/proxy/proxytest"
)

func TestBehaviours(t *testing.T) {
	if err := nftables.Available(); err != nil {
		t.Fatal(err)
	}
	proxytest.Run(t, func() proxy.Backend { return nftables.New() })
}
