package apiserver_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
	"github.com/skiff-k8s/skiff/apiserver/backend"
)

// meeting is a backend in which writes of a key wait for each other, once it is told how many there will be.
type meeting struct {
	backend.Backend
	key     string
	missing atomic.Int64
	all     chan struct{}
}

func (m *meeting) Put(ctx context.Context, key string, value []byte, expected int64, lifetime time.Duration) (int64, error) {
	if key == m.key && m.missing.Load() > 0 {
		if m.missing.Add(-1) == 0 {
			close(m.all)
		}
		select {
		case <-m.all:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	return m.Backend.Put(ctx, key, value, expected, lifetime)
}

// TestQuota creates more at once than a quota allows: exactly what it allows
// must come through, and be booked. All are let pass before any is booked.
func TestQuota(t *testing.T) {
	const allowed, tried = 5, 20
	m := &meeting{key: "/registry/resourcequotas/default/q", all: make(chan struct{})}
	c := clientset(t, apiservertest.Config(apiservertest.Start(t, func(o *apiserver.Options) {
		m.Backend = o.Backend
		o.Backend = m
	}), "admin"))
	quotas, maps := c.CoreV1().ResourceQuotas("default"), c.CoreV1().ConfigMaps("default")
	hard := corev1.ResourceList{corev1.ResourceConfigMaps: resource.MustParse(fmt.Sprint(allowed))}
	q, err := quotas.Create(t.Context(), &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "q"}, Spec: corev1.ResourceQuotaSpec{Hard: hard}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	q.Status.Hard, q.Status.Used = hard, corev1.ResourceList{corev1.ResourceConfigMaps: resource.MustParse("0")}
	if _, err := quotas.UpdateStatus(t.Context(), q, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}

	m.missing.Store(tried)
	var group sync.WaitGroup
	results := make(chan error, tried)
	for i := range tried {
		group.Go(func() {
			_, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("m", i)}}, metav1.CreateOptions{})
			results <- err
		})
	}
	group.Wait()
	close(results)
	if n := m.missing.Load(); n > 0 {
		t.Fatalf("%d of the quota's writes never came", n)
	}
	made := 0
	for err := range results {
		switch {
		case err == nil:
			made++
		case !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "exceeded quota: q, requested: configmaps=1, used: configmaps=5, limited: configmaps=5"):
			t.Errorf("got %v, want exceeded quota", err)
		}
	}
	if made != allowed {
		t.Errorf("%d were made, want %d", made, allowed)
	}
	q, err = quotas.Get(t.Context(), "q", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if used := q.Status.Used[corev1.ResourceConfigMaps]; used.Value() != allowed {
		t.Errorf("%s are booked, want %d", used.String(), allowed)
	}
}
