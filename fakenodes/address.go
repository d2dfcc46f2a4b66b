package fakenodes

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// rangeRetry is how long a pod waits before it is looked at again when its node has no address left, or no range yet.
const rangeRetry = 200 * time.Millisecond

// addresses gives pods addresses of the ranges of their nodes. It is safe for concurrent use.
type addresses struct {
	mu   sync.Mutex
	pods map[types.UID][]netip.Addr
	used map[netip.Addr]types.UID
}

func newAddresses() *addresses {
	return &addresses{pods: make(map[types.UID][]netip.Addr), used: make(map[netip.Addr]types.UID)}
}

// note takes the addresses that a pod has, given by this run or an earlier one.
func (a *addresses) note(pod *corev1.Pod) {
	if over(pod.Status.Phase) {
		a.release(pod)
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.pods[pod.UID]) > 0 {
		return
	}
	for _, ip := range pod.Status.PodIPs {
		if addr, err := netip.ParseAddr(ip.IP); err == nil {
			a.take(pod.UID, addr)
		}
	}
}

func (a *addresses) take(pod types.UID, addr netip.Addr) {
	a.pods[pod] = append(a.pods[pod], addr)
	a.used[addr] = pod
}

// of returns the addresses of a pod: one of each range of its node, none if it is on the network of its node, which
// has none. It is false while the node has no range, or no address left.
func (a *addresses) of(pod *corev1.Pod, node *corev1.Node) ([]corev1.PodIP, bool) {
	if pod.Spec.HostNetwork || over(pod.Status.Phase) {
		return pod.Status.PodIPs, true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.pods[pod.UID]) == 0 {
		for _, text := range node.Spec.PodCIDRs {
			prefix, err := netip.ParsePrefix(text)
			if err != nil {
				continue
			}
			if addr, ok := a.free(prefix); ok {
				a.take(pod.UID, addr)
			}
		}
	}
	ips := make([]corev1.PodIP, 0, 2)
	for _, addr := range a.pods[pod.UID] {
		ips = append(ips, corev1.PodIP{IP: addr.String()})
	}
	return ips, len(ips) > 0
}

// free is an address of a range that no pod has; the first is the node's own, as it is of real ones.
func (a *addresses) free(prefix netip.Prefix) (netip.Addr, bool) {
	for addr := prefix.Masked().Addr().Next().Next(); prefix.Contains(addr.Next()); addr = addr.Next() {
		if _, taken := a.used[addr]; !taken {
			return addr, true
		}
	}
	return netip.Addr{}, false
}

// release gives back the addresses of a pod that has no more use for them.
func (a *addresses) release(pod *corev1.Pod) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, addr := range a.pods[pod.UID] {
		delete(a.used, addr)
	}
	delete(a.pods, pod.UID)
}

func over(phase corev1.PodPhase) bool {
	return slices.Contains([]corev1.PodPhase{corev1.PodSucceeded, corev1.PodFailed}, phase)
}
