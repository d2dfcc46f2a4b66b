package iptables_test

import (
	"testing"

	"github.com/skiff-k8s/skiff/proxy"
	"github.com/skiff-k8s/skiff/proxy/iptables"
	"github.com/skiff-k8s/skiff/proxy/proxytest"
)

func TestBehaviours(t *testing.T) {
	proxytest.Run(t, func() proxy.Backend { return iptables.New() })
}
