package ingress

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

// TestOneNodeWritesTheStatus has three nodes serve many Ingresses. A new Ingress is written once, and a node that dies
// costs a write for each, even if it was the one that wrote.
func TestOneNodeWritesTheStatus(t *testing.T) {
	const many = 100
	w := start(t) // node n
	_, die := w.join("a", "192.0.2.3")
	w.join("b", "192.0.2.2")
	create := func(name string) {
		t.Helper()
		if _, err := w.NetworkingV1().Ingresses(namespace).Create(t.Context(), newIngress(name, nil, name+".example / web"), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	create("first")
	w.addressed("first", "192.0.2.1", "192.0.2.2", "192.0.2.3")

	written := w.countWrites("first")
	for i := range many {
		create(fmt.Sprint("i", i))
	}
	for i := range many {
		w.addressed(fmt.Sprint("i", i), "192.0.2.1", "192.0.2.2", "192.0.2.3")
	}
	if got := written(); got != many {
		t.Errorf("%d new Ingresses: %d writes of their status", many, got)
	}

	die()
	w.condition("a", corev1.ConditionUnknown)
	w.addressed("first", "192.0.2.1", "192.0.2.2")
	for i := range many {
		w.addressed(fmt.Sprint("i", i), "192.0.2.1", "192.0.2.2")
	}
	if got := written(); got != many+1 {
		t.Errorf("a node died: %d writes of the status of %d Ingresses", got, many+1)
	}

	if err := w.CoreV1().Nodes().Delete(t.Context(), "b", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.addressed("first", "192.0.2.1")
}

// countWrites returns what counts the changes of Ingresses since it was called last, up to the moment of the call: it
// changes the Ingress that is named as a mark.
func (w *world) countWrites(mark string) func() int {
	w.t.Helper()
	list, err := w.NetworkingV1().Ingresses(namespace).List(w.t.Context(), metav1.ListOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	events, err := w.NetworkingV1().Ingresses(namespace).Watch(w.t.Context(), metav1.ListOptions{ResourceVersion: list.ResourceVersion})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(events.Stop)
	marks := 0
	return func() (writes int) {
		w.t.Helper()
		marks++
		patch := fmt.Sprintf(`{"metadata":{"labels":{"mark":"m%d"}}}`, marks)
		if _, err := w.NetworkingV1().Ingresses(namespace).Patch(w.t.Context(), mark, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
			w.t.Fatal(err)
		}
		for event := range events.ResultChan() {
			object, ok := event.Object.(metav1.Object)
			if !ok {
				w.t.Fatalf("the watch says %v", event.Object)
			}
			if object.GetName() == mark && object.GetLabels()["mark"] == fmt.Sprint("m", marks) {
				return writes
			}
			if event.Type == watch.Modified {
				writes++
			}
		}
		w.t.Fatal("the watch ended")
		return 0
	}
}

// TestNodesSpeakForThemselves has an ingress with the rights of a cluster: it says of its own node alone what it serves,
// and takes it back when the port is another's.
func TestNodesSpeakForThemselves(t *testing.T) {
	w := start(t, func(c *Config) { c.HTTPSPort = 0 })
	says := func(want string) {
		t.Helper()
		w.eventually("what the node says", func() error {
			node, err := w.CoreV1().Nodes().Get(t.Context(), "n", metav1.GetOptions{})
			if err != nil {
				return err
			}
			if got, ok := node.Annotations[AddressAnnotation]; !ok || got != want {
				return fmt.Errorf("got %q (%v), want %q", got, ok, want)
			}
			return nil
		})
	}
	says("")
	w.route("web", nil, "a.example / web")
	says(nodeAddress)
	w.addressed("web", nodeAddress)

	other := w.as("system:node:n", "system:nodes", "system:authenticated")
	if _, err := w.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "m"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := Withdraw(t.Context(), other, "m"); !apierrors.IsForbidden(err) {
		t.Errorf("for another node: %v", err)
	}
	// Somebody else writes what is not so.
	patch := fmt.Sprintf(`{"metadata":{"annotations":{%q:"198.51.100.1"}}}`, AddressAnnotation)
	if _, err := w.CoreV1().Nodes().Patch(t.Context(), "n", types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	says(nodeAddress)
	w.addressed("web", nodeAddress)

	if err := w.NetworkingV1().Ingresses(namespace).DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	says("")
	if err := Withdraw(t.Context(), other, "missing"); err != nil {
		t.Errorf("for a node that is not there: %v", err)
	}
}
