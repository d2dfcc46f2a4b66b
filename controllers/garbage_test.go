package controllers_test

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// config creates a ConfigMap with owners.
func (w *world) config(name string, owners ...metav1.OwnerReference) *corev1.ConfigMap {
	w.t.Helper()
	m, err := w.CoreV1().ConfigMaps(w.namespace).Create(w.t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, OwnerReferences: owners}}, metav1.CreateOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return m
}

func ownedBy(m *corev1.ConfigMap, block bool) metav1.OwnerReference {
	return metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: m.Name, UID: m.UID, BlockOwnerDeletion: &block}
}

func (w *world) deleteConfig(name string, policy metav1.DeletionPropagation) {
	w.t.Helper()
	if err := w.CoreV1().ConfigMaps(w.namespace).Delete(w.t.Context(), name, metav1.DeleteOptions{PropagationPolicy: &policy}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) configGone(name string) {
	w.t.Helper()
	w.eventually("the end of "+name, func() error {
		_, err := w.CoreV1().ConfigMaps(w.namespace).Get(w.t.Context(), name, metav1.GetOptions{})
		return gone(err)
	})
}

func TestGarbageInTheBackground(t *testing.T) {
	w := start(t)
	root := w.config("root")
	child := w.config("child", ownedBy(root, false))
	w.config("grandchild", ownedBy(child, false))
	w.deleteConfig("root", metav1.DeletePropagationBackground)
	w.configGone("child")
	w.configGone("grandchild")
}

func TestGarbageWithoutOwnerFromTheStart(t *testing.T) {
	w := start(t)
	never := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "never", UID: "no-such-uid"}}
	w.config("child", ownedBy(never, false))
	w.configGone("child")
}

func TestGarbageInTheForeground(t *testing.T) {
	w := start(t)
	ctx := t.Context()
	root := w.config("root")
	other := w.config("other")
	held := w.config("held", ownedBy(root, true))
	w.config("shared", ownedBy(root, true), ownedBy(other, true))
	held.Finalizers = []string{"example.com/hold"}
	if _, err := w.CoreV1().ConfigMaps(w.namespace).Update(ctx, held, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.deleteConfig("root", metav1.DeletePropagationForeground)
	w.eventually("the deletion of the dependent", func() error {
		m, err := w.CoreV1().ConfigMaps(w.namespace).Get(ctx, "held", metav1.GetOptions{})
		if err == nil && m.DeletionTimestamp == nil {
			err = fmt.Errorf("not deleted")
		}
		held = m
		return err
	})
	if _, err := w.CoreV1().ConfigMaps(w.namespace).Get(ctx, "root", metav1.GetOptions{}); err != nil {
		t.Errorf("the owner went before its dependent: %v", err)
	}
	held.Finalizers = nil
	if _, err := w.CoreV1().ConfigMaps(w.namespace).Update(ctx, held, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.configGone("root")
	shared, err := w.CoreV1().ConfigMaps(w.namespace).Get(ctx, "shared", metav1.GetOptions{})
	if err != nil {
		t.Fatalf("a dependent with another owner: %v", err)
	}
	if len(shared.OwnerReferences) != 1 || shared.OwnerReferences[0].Name != "other" || shared.DeletionTimestamp != nil {
		t.Errorf("a dependent with another owner: got owners %v", shared.OwnerReferences)
	}
}

func TestGarbageOrphans(t *testing.T) {
	w := start(t)
	ctx := t.Context()
	root := w.config("root")
	w.config("child", ownedBy(root, true))
	w.deleteConfig("root", metav1.DeletePropagationOrphan)
	w.configGone("root")
	time.Sleep(200 * time.Millisecond)
	child, err := w.CoreV1().ConfigMaps(w.namespace).Get(ctx, "child", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(child.OwnerReferences) != 0 {
		t.Errorf("owners of the orphan: got %v, want none", child.OwnerReferences)
	}
}

func TestGarbageInACircle(t *testing.T) {
	w := start(t)
	ctx := t.Context()
	one := w.config("one")
	two := w.config("two", ownedBy(one, true))
	three := w.config("three", ownedBy(two, true))
	one.OwnerReferences = []metav1.OwnerReference{ownedBy(three, true)}
	if _, err := w.CoreV1().ConfigMaps(w.namespace).Update(ctx, one, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.deleteConfig("one", metav1.DeletePropagationForeground)
	for _, name := range []string{"one", "two", "three"} {
		w.configGone(name)
	}
}
