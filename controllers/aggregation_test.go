package controllers_test

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestExtensionServerThatIsGone: what is not its own is collected and emptied as
// before; a namespace does not go, since nobody knows what is left in it.
func TestExtensionServerThatIsGone(t *testing.T) {
	w := start(t)
	ctx := t.Context()
	const services = "/apis/apiregistration.k8s.io/v1/apiservices"
	err := w.Discovery().RESTClient().Post().AbsPath(services).SetHeader("Content-Type", "application/json").Body([]byte(`{
		"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": "v1.gone.example.com"}, "spec": {"group": "gone.example.com",
		"version": "v1", "groupPriorityMinimum": 100, "versionPriority": 10, "insecureSkipTLSVerify": true, "service": {"namespace": "default", "name": "gone"}}}`)).Do(ctx).Error()
	if err != nil {
		t.Fatal(err)
	}
	w.restart() // so that they know of it from the start

	maps := w.CoreV1().ConfigMaps(w.namespace)
	owner, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "owner"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	owned := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "owned", OwnerReferences: []metav1.OwnerReference{
		{APIVersion: "v1", Kind: "ConfigMap", Name: owner.Name, UID: owner.UID},
	}}}
	if _, err := maps.Create(ctx, owned, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := maps.Delete(ctx, owner.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("the collection of what is owned", func() error {
		_, err := maps.Get(ctx, owned.Name, metav1.GetOptions{})
		return gone(err)
	})

	if _, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "content"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := w.CoreV1().Namespaces().Delete(ctx, w.namespace, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("the condition that names the group", func() error {
		namespace, err := w.CoreV1().Namespaces().Get(ctx, w.namespace, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, c := range namespace.Status.Conditions {
			if c.Type != corev1.NamespaceDeletionDiscoveryFailure || c.Status != corev1.ConditionTrue {
				continue
			}
			const want = "Discovery failed for some groups, 1 failing: unable to retrieve the complete list of server APIs: " +
				"gone.example.com/v1: stale GroupVersion discovery: gone.example.com/v1"
			if c.Reason != "DiscoveryFailed" || c.Message != want {
				t.Fatalf("got %s %q, want %q", c.Reason, c.Message, want)
			}
			return nil
		}
		return fmt.Errorf("conditions: %v", namespace.Status.Conditions)
	})
	w.eventually("the end of what is known", func() error {
		_, err := maps.Get(ctx, "content", metav1.GetOptions{})
		return gone(err)
	})
	if err := w.Discovery().RESTClient().Delete().AbsPath(services, "v1.gone.example.com").Do(ctx).Error(); err != nil {
		t.Fatal(err)
	}
	w.eventually("the end of the namespace", func() error {
		_, err := w.CoreV1().Namespaces().Get(ctx, w.namespace, metav1.GetOptions{})
		return gone(err)
	})
}
