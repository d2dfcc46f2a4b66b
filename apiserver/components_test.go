package apiserver_test

import (
	"context"
	"errors"
	"regexp"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
)

// TestComponentStatuses: parts in the process say themselves how they are, parts elsewhere are judged by the lease of
// their leader, and what was well a moment ago is not called so now.
func TestComponentStatuses(t *testing.T) {
	problem := errors.New("not running")
	s := apiservertest.Start(t, func(o *apiserver.Options) {
		o.Components = map[string]func(context.Context) error{"scheduler": func(context.Context) error { return problem }}
	})
	client := clientset(t, apiservertest.Config(s, "admin"))
	expectComponents(t, s, [3]string{"not known to run: there is no lease kube-system/kube-controller-manager", "ok", "not running"})

	problem = nil
	lease := &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Name: "kube-controller-manager"},
		Spec: coordinationv1.LeaseSpec{HolderIdentity: ptr.To("a"), LeaseDurationSeconds: ptr.To[int32](3600),
			RenewTime: &metav1.MicroTime{Time: time.Now()}},
	}
	leases := client.CoordinationV1().Leases(metav1.NamespaceSystem)
	lease, err := leases.Create(t.Context(), lease, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	expectComponents(t, s, [3]string{"ok", "ok", "ok"})

	lease.Spec.RenewTime.Time = time.Now().Add(-2 * time.Hour)
	if lease, err = leases.Update(t.Context(), lease, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	expectComponents(t, s, [3]string{`leader a renewed its lease 2h\S+ ago, which is good for 1h0m0s`, "ok", "ok"})

	lease.Spec.HolderIdentity = ptr.To("")
	if _, err = leases.Update(t.Context(), lease, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	expectComponents(t, s, [3]string{"no leader holds its lease", "ok", "ok"})
}

// TestComponentStatusOfStorage: when the storage is closed, the answer says so.
func TestComponentStatusOfStorage(t *testing.T) {
	var storage interface{ Close() error }
	s := apiservertest.Start(t, func(o *apiserver.Options) { storage = o.Backend })
	if err := storage.Close(); err != nil {
		t.Fatal(err)
	}
	status, err := clientset(t, apiservertest.Config(s, "admin")).CoreV1().ComponentStatuses().Get(t.Context(), "etcd-0", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if c := status.Conditions; len(c) != 1 || c[0].Status != corev1.ConditionFalse || c[0].Message == "" {
		t.Errorf("got %v, want one condition that is False and says why", c)
	}
}

// expectComponents wants messages that match, of controller-manager, etcd-0 and scheduler, in a list and one by one.
func expectComponents(t *testing.T, s *apiserver.Server, want [3]string) {
	t.Helper()
	client := clientset(t, apiservertest.Config(s, "admin")).CoreV1().ComponentStatuses()
	list, err := client.List(t.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) != len(want) {
		t.Fatalf("got %v, %v, want three components", list, err)
	}
	for i, name := range []string{"controller-manager", "etcd-0", "scheduler"} {
		one, err := client.Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		status := corev1.ConditionTrue
		if want[i] != "ok" {
			status = corev1.ConditionFalse
		}
		for _, got := range []corev1.ComponentStatus{list.Items[i], *one} {
			c := got.Conditions
			if got.Name != name || len(c) != 1 || c[0].Type != corev1.ComponentHealthy || c[0].Status != status ||
				!regexp.MustCompile("^"+want[i]+"$").MatchString(c[0].Message) {
				t.Errorf("got %s %v, want %s with %s", got.Name, c, name, want[i])
			}
		}
	}
}
