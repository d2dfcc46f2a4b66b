package pods

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-k8s/skiff/kubelet/runtime/runtimetest"
)

// gate admits no pod before it is opened.
type gate struct {
	open chan struct{}

	mu       sync.Mutex
	asked    map[types.UID][]netip.Addr
	released []types.UID
}

func (g *gate) Admit(ctx context.Context, pod *v1.Pod, addresses []netip.Addr) error {
	g.mu.Lock()
	g.asked[pod.UID] = addresses
	g.mu.Unlock()
	select {
	case <-g.open:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (g *gate) Release(uid types.UID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.released = append(g.released, uid)
}

// has reports what the gate was asked for.
func (g *gate) has(uid types.UID) (addresses []netip.Addr, released bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.asked[uid], slices.Contains(g.released, uid)
}

// TestContainersWaitForPolicies: no container, not even an init container, runs before network policies are
// in force for the addresses of the sandbox, which are given up when that is stopped. Pods on the host's
// network wait for nothing.
func TestContainersWaitForPolicies(t *testing.T) {
	n := newNode(t, func(*cri.ContainerConfig) runtimetest.Script { return runtimetest.Script{} })
	n.stop()
	g := &gate{open: make(chan struct{}), asked: make(map[types.UID][]netip.Addr)}
	n.policies = g
	n.start()
	pod := n.create("p", v1.PodSpec{Containers: []v1.Container{c("a")}})
	n.until("the policies to be asked", func() bool { addresses, _ := g.has(pod.UID); return len(addresses) == 1 })
	host := n.create("h", v1.PodSpec{HostNetwork: true, Containers: []v1.Container{c("b")}})
	n.untilPhase("h", v1.PodRunning)
	if addresses, _ := g.has(host.UID); addresses != nil {
		t.Errorf("a pod on the host's network claims %v", addresses)
	}
	if log := n.runtime.Log(); slices.Contains(log, "start a") {
		t.Errorf("a container runs before its policies are in force: %q", log)
	}
	close(g.open)
	running := n.untilPhase("p", v1.PodRunning)
	addresses, released := g.has(pod.UID)
	if addresses[0].String() != running.Status.PodIP || released {
		t.Errorf("claimed %v, released %v, the pod has %s", addresses, released, running.Status.PodIP)
	}
	n.remove("p", 0)
	n.until("the addresses to be released", func() bool { _, released := g.has(pod.UID); return released })
}
