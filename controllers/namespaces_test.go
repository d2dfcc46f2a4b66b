package controllers_test

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func TestNamespaceGetsRootCA(t *testing.T) {
	w := start(t)
	ctx := t.Context()
	maps := w.CoreV1().ConfigMaps(w.namespace)
	published := func() error {
		m, err := maps.Get(ctx, "kube-root-ca.crt", metav1.GetOptions{})
		if err == nil && m.Data["ca.crt"] != "the authority" {
			err = fmt.Errorf("got %q", m.Data)
		}
		return err
	}
	w.eventually("the published authority", published)

	if _, err := maps.Patch(ctx, "kube-root-ca.crt", types.MergePatchType, []byte(`{"data":{"ca.crt":"another"}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("the authority put right", published)
	if err := maps.Delete(ctx, "kube-root-ca.crt", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("the authority published anew", published)
}

func TestNamespaceIsEmptiedPodsFirst(t *testing.T) {
	w := start(t)
	ctx := t.Context()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "held", Finalizers: []string{"example.com/hold"}}, Spec: template("held", "x").Spec}
	if _, err := w.CoreV1().Pods(w.namespace).Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.CoreV1().ConfigMaps(w.namespace).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "kept"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := w.CoreV1().Namespaces().Delete(ctx, w.namespace, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("the condition that names the finalizer", func() error {
		namespace, err := w.CoreV1().Namespaces().Get(ctx, w.namespace, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range namespace.Status.Conditions {
			if c.Type == corev1.NamespaceFinalizersRemaining && c.Status == corev1.ConditionTrue {
				if want := "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances"; c.Message != want {
					t.Fatalf("message: got %q, want %q", c.Message, want)
				}
				return nil
			}
		}
		return fmt.Errorf("conditions: %v", namespace.Status.Conditions)
	})
	if _, err := w.CoreV1().ConfigMaps(w.namespace).Get(ctx, "kept", metav1.GetOptions{}); err != nil {
		t.Errorf("a ConfigMap went before the last pod: %v", err)
	}
	if _, err := w.CoreV1().Pods(w.namespace).Patch(ctx, "held", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("the end of the namespace", func() error {
		_, err := w.CoreV1().Namespaces().Get(ctx, w.namespace, metav1.GetOptions{})
		return gone(err)
	})
}
