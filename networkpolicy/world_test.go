package networkpolicy

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// denying is a world of the node "here" with a policy that isolates pods with the label app=a for ingress.
func denying() *World {
	w := NewWorld("here")
	p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "deny"}}
	p.Spec.PodSelector.MatchLabels = map[string]string{"app": "a"}
	w.SetPolicy(p)
	return w
}

func podWith(uid, app string, ips ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: uid, UID: types.UID(uid), Labels: map[string]string{"app": app}}}
	p.Spec.NodeName = "here"
	for _, ip := range ips {
		p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: ip})
	}
	return p
}

func (w *World) isolates(addr string) bool {
	return w.Table().Isolated[Ingress][netip.MustParseAddr(addr)] != nil
}

// TestClaims: what the kubelet says of addresses counts before the API knows of a pod's, and until it gives
// them up, also if the API knows the pod no more.
func TestClaims(t *testing.T) {
	w := denying()
	pod := podWith("one", "a")
	claim := []netip.Addr{netip.MustParseAddr("10.0.0.1")}
	if !w.Claim(pod, claim) || w.Claim(pod, claim) {
		t.Error("a claim is news once")
	}
	if !w.isolates("10.0.0.1") {
		t.Error("a pod that only the kubelet knows is not isolated")
	}
	w.SetPod(pod)
	w.DeletePod(pod.UID)
	if !w.isolates("10.0.0.1") {
		t.Error("a pod that was deleted by force is not isolated any more, though it may still run")
	}
	if !w.Release(pod.UID) || w.Release(pod.UID) {
		t.Error("a release is news once")
	}
	if w.isolates("10.0.0.1") || len(w.pods) > 0 {
		t.Error("a pod is not forgotten")
	}
}

// TestAddressGoesOn: an address belongs to the pod that has it now, whatever the status of one says that had
// it before.
func TestAddressGoesOn(t *testing.T) {
	for _, first := range []string{"a", "b"} {
		t.Run(first, func(t *testing.T) {
			w := denying()
			second := map[string]string{"a": "b", "b": "a"}[first]
			w.SetPod(podWith("old", first, "10.0.0.1"))
			next := podWith("new", second, "10.0.0.1")
			w.Claim(next, []netip.Addr{netip.MustParseAddr("10.0.0.1")})
			if got, want := w.isolates("10.0.0.1"), second == "a"; got != want {
				t.Errorf("isolated: %v, want %v", got, want)
			}
		})
	}
}

// TestPodsShare: a thousand pods that policies treat alike are one class and one profile, and changes that do
// not matter change nothing.
func TestPodsShare(t *testing.T) {
	w := denying()
	p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "allow"}}
	p.Spec.PodSelector.MatchLabels = map[string]string{"app": "a"}
	p.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{}}}}}
	w.SetPolicy(p)
	for i := range 1000 {
		pod := podWith(fmt.Sprint(i), "a", fmt.Sprintf("10.0.%d.%d", i/250, i%250))
		pod.Labels["ordinal"] = fmt.Sprint(i)
		w.SetPod(pod)
	}
	if len(w.classes) != 1 || len(w.profiles) != 1 {
		t.Errorf("%d classes and %d profiles", len(w.classes), len(w.profiles))
	}
	same := podWith("7", "a", "10.0.0.7")
	same.Labels["ordinal"] = "7"
	same.Status.Conditions = []corev1.PodCondition{{Type: "Ready", Status: "True"}}
	changed := p.DeepCopy()
	changed.Annotations = map[string]string{"said": "something"}
	if w.SetPod(same) || w.SetPolicy(changed) {
		t.Error("what no policy looks at matters")
	}
}

func TestBlocks(t *testing.T) {
	for _, test := range []struct {
		block networkingv1.IPBlock
		want  []string
	}{
		{networkingv1.IPBlock{CIDR: "10.0.0.0/24"}, []string{"10.0.0.0-10.0.0.255"}},
		{networkingv1.IPBlock{CIDR: "10.0.0.9/24"}, []string{"10.0.0.0-10.0.0.255"}},
		{networkingv1.IPBlock{CIDR: "010.0.0.0/31"}, []string{"10.0.0.0-10.0.0.1"}},
		{networkingv1.IPBlock{CIDR: "10.0.0.0/24", Except: []string{"10.0.0.0/25"}}, []string{"10.0.0.128-10.0.0.255"}},
		{networkingv1.IPBlock{CIDR: "10.0.0.0/24", Except: []string{"10.0.0.4/30", "10.0.0.6/31", "10.0.0.255/32"}}, []string{"10.0.0.0-10.0.0.3", "10.0.0.8-10.0.0.254"}},
		{networkingv1.IPBlock{CIDR: "10.0.0.0/24", Except: []string{"10.0.0.0/24"}}, nil},
		{networkingv1.IPBlock{CIDR: "255.255.255.254/31"}, []string{"255.255.255.254-255.255.255.255"}},
		{networkingv1.IPBlock{CIDR: "fd00::/127", Except: []string{"fd00::1/128"}}, []string{"fd00::-fd00::"}},
		{networkingv1.IPBlock{CIDR: "10.0.0.0/24", Except: []string{"nonsense"}}, nil},
		{networkingv1.IPBlock{CIDR: "nonsense"}, nil},
	} {
		var got []string
		for _, s := range spans(&test.block) {
			got = append(got, s.first.String()+"-"+s.last.String())
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%+v is %q, want %q", test.block, got, test.want)
		}
	}
}
