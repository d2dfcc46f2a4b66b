package main

import (
	"context"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
)

// A leader that is told to end keeps the lease until its work has ended.
func TestLead(t *testing.T) {
	clients := kubernetes.NewForConfigOrDie(apiservertest.Config(apiservertest.Start(t, nil), "leader"))
	holder := func() string {
		t.Helper()
		lease, err := clients.CoordinationV1().Leases(metav1.NamespaceSystem).Get(t.Context(), "work", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return *lease.Spec.HolderIdentity
	}
	c := client{leaderElect: true}
	ctx, end := context.WithCancel(t.Context())
	defer end()
	ending, ended, result := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		result <- c.lead(ctx, "work", clients, func(ctx context.Context) error {
			end()
			<-ctx.Done()
			close(ending)
			<-ended
			return nil
		})
	}()
	<-ending
	select {
	case <-result:
		t.Fatal("lead returned while the work went on")
	case <-time.After(100 * time.Millisecond): // more than giving up the lease takes
	}
	if holder() == "" {
		t.Error("the lease was given up while its holder still worked")
	}
	close(ended)
	if err := <-result; err != nil {
		t.Errorf("lead: %v", err)
	}
}
