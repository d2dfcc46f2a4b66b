package clientgo

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
	fcache "k8s.io/client-go/tools/cache/testing"

	"github.com/skiff-k8s/skiff/guard"
)

// TestHandlerSkipsWhatPanics runs a real informer: without a guard, client-go ends the process.
func TestHandlerSkipsWhatPanics(t *testing.T) {
	source := fcache.NewFakeControllerSource()
	informer := cache.NewSharedInformer(source, &corev1.Pod{}, 0)
	seen := make(chan string, 10)
	if _, err := informer.AddEventHandler(Handler("test", cache.ResourceEventHandlerFuncs{AddFunc: func(obj any) {
		if name := obj.(*corev1.Pod).Name; name != "bad" {
			seen <- name
			return
		}
		panic("oh")
	}})); err != nil {
		t.Fatal(err)
	}
	var running guard.Group
	running.Go("informer", func() { informer.Run(t.Context().Done()) })
	for _, name := range []string{"bad", "good"} {
		source.Add(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}})
	}
	if got := <-seen; got != "good" {
		t.Errorf("got %s, want good", got)
	}
}
