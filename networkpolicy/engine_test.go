package networkpolicy_test

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
	"github.com/skiff-k8s/skiff/networkpolicy"
)

// record is a backend that remembers.
type record struct {
	mu      sync.Mutex
	broken  bool
	last    *networkpolicy.Table
	applied chan struct{} // gets something after each Apply, unless nobody looks
}

func (r *record) Apply(t *networkpolicy.Table) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.broken {
		return errors.New("broken on purpose")
	}
	r.last = t
	select {
	case r.applied <- struct{}{}:
	default:
	}
	return nil
}

func (r *record) Intact() (bool, error) { return true, nil }

// isolated reports whether ingress of an address is restricted.
func (r *record) isolated(addr string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last != nil && r.last.Isolated[networkpolicy.Ingress][netip.MustParseAddr(addr)] != nil
}

func (r *record) setBroken(broken bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.broken = broken
}

// until waits for a table in which something holds.
func (r *record) until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	timeout := time.After(20 * time.Second)
	for !holds() {
		select {
		case <-r.applied:
		case <-timeout:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// TestEngine follows an API: pods are admitted when what is said about them is in force, and not while
// nothing can be.
func TestEngine(t *testing.T) {
	client := kubernetes.NewForConfigOrDie(apiservertest.Config(apiservertest.Start(t, nil), "admin", "system:masters"))
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	policy := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "deny"}}
	policy.Spec.PodSelector.MatchLabels = map[string]string{"app": "a"}
	_, err := client.NetworkingV1().NetworkPolicies("default").Create(ctx, policy, metav1.CreateOptions{})
	must(err)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "default", UID: "uid-a", Labels: map[string]string{"app": "a"}}}
	pod.Spec.NodeName = "here"
	pod.Spec.Containers = []corev1.Container{{Name: "c", Image: "i"}}

	backend := &record{applied: make(chan struct{}, 1)}
	engine, err := networkpolicy.New(networkpolicy.Config{Client: client, NodeName: "here", Backend: backend})
	must(err)
	soon, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	addresses := []netip.Addr{netip.MustParseAddr("10.0.0.1")}
	if err := engine.Admit(soon, pod, addresses); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("before anything is in force a pod is admitted: %v", err)
	}
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- engine.Run(running) }()
	must(engine.Admit(ctx, pod, addresses))
	if !backend.isolated("10.0.0.1") {
		t.Error("a pod is admitted that is not isolated")
	}

	backend.setBroken(true)
	later, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	other := pod.DeepCopy()
	other.Name, other.UID = "b", "uid-b"
	if err := engine.Admit(later, other, []netip.Addr{netip.MustParseAddr("10.0.0.2")}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a pod is admitted while rules cannot be made: %v", err)
	}
	backend.setBroken(false)
	must(engine.Admit(ctx, other, []netip.Addr{netip.MustParseAddr("10.0.0.2")}))
	if !backend.isolated("10.0.0.2") {
		t.Error("a pod is admitted that is not isolated")
	}

	engine.Release(other.UID)
	backend.until(t, "an address to be released", func() bool { return !backend.isolated("10.0.0.2") })
	must(client.NetworkingV1().NetworkPolicies("default").Delete(ctx, "deny", metav1.DeleteOptions{}))
	backend.until(t, "the policy to be gone", func() bool { return !backend.isolated("10.0.0.1") })
	stop()
	must(<-ended)
}

// TestNothingCanBeEnforced: a host that cannot enforce policies is an error, not a node without policies.
func TestNothingCanBeEnforced(t *testing.T) {
	client := kubernetes.NewForConfigOrDie(apiservertest.Config(apiservertest.Start(t, nil), "admin", "system:masters"))
	engine, err := networkpolicy.New(networkpolicy.Config{Client: client, NodeName: "here", Backend: &record{broken: true}})
	if err != nil {
		t.Fatal(err)
	}
	if err := engine.Run(t.Context()); err == nil {
		t.Error("Run says nothing")
	}
}

// asked is a transport that remembers which resources of the whole cluster were asked for.
type asked struct {
	http.RoundTripper
	mu    sync.Mutex
	paths map[string]bool
}

func (a *asked) RoundTrip(r *http.Request) (*http.Response, error) {
	a.mu.Lock()
	a.paths[r.URL.Path] = true
	a.mu.Unlock()
	return a.RoundTripper.RoundTrip(r)
}

func (a *asked) has(path string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.paths[path]
}

// TestFirstPolicy has a cluster without policies: the engine does not follow its pods until there is one, and then
// isolates those that were there before.
func TestFirstPolicy(t *testing.T) {
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var requests *asked
	config := apiservertest.Config(apiservertest.Start(t, nil), "admin", "system:masters")
	admin := kubernetes.NewForConfigOrDie(config)
	config = rest.CopyConfig(config)
	config.Wrap(func(inner http.RoundTripper) http.RoundTripper {
		requests = &asked{RoundTripper: inner, paths: make(map[string]bool)}
		return requests
	})
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "default", Labels: map[string]string{"app": "a"}}}
	pod.Spec.NodeName = "here"
	pod.Spec.Containers = []corev1.Container{{Name: "c", Image: "i"}}
	_, err := admin.CoreV1().ServiceAccounts("default").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
	must(err)
	pod, err = admin.CoreV1().Pods("default").Create(ctx, pod, metav1.CreateOptions{})
	must(err)

	backend := &record{applied: make(chan struct{}, 1)}
	engine, err := networkpolicy.New(networkpolicy.Config{Client: kubernetes.NewForConfigOrDie(config), NodeName: "here", Backend: backend})
	must(err)
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- engine.Run(running) }()
	must(engine.Admit(ctx, pod, []netip.Addr{netip.MustParseAddr("10.0.0.1")}))
	short := pod.DeepCopy()
	short.Name, short.UID = "short", "uid-short"
	must(engine.Admit(ctx, short, []netip.Addr{netip.MustParseAddr("10.0.0.2")}))
	engine.Release(short.UID)
	for _, path := range []string{"/api/v1/pods", "/api/v1/namespaces"} {
		if requests.has(path) {
			t.Errorf("without policies the engine asks for %s", path)
		}
	}
	policy := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: "deny"}}
	policy.Spec.PodSelector.MatchLabels = map[string]string{"app": "a"}
	_, err = admin.NetworkingV1().NetworkPolicies("default").Create(ctx, policy, metav1.CreateOptions{})
	must(err)
	backend.until(t, "the first policy to be in force", func() bool { return backend.isolated("10.0.0.1") })
	if backend.isolated("10.0.0.2") {
		t.Error("an address is isolated that is nobody's any more")
	}
	if !requests.has("/api/v1/pods") {
		t.Error("with a policy the engine does not ask for pods")
	}
	stop()
	must(<-ended)
}
