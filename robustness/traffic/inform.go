package traffic

import (
	"context"
	"fmt"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/skiff-k8s/skiff/robustness/history"
)

// inform keeps a copy of all objects as clients of client-go do, and records
// what it is when the last write has come.
func (r *run) inform(ctx context.Context, server int, media string) {
	name := fmt.Sprintf("in %s of server %d", media, server)
	config := rest.CopyConfig(r.Servers[server])
	config.ContentType, config.AcceptContentTypes = media, media
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		r.history.Fail("informer %s: %v", name, err)
		return
	}
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(r.Namespace))
	informer := factory.Core().V1().ConfigMaps().Informer()
	// What interrupts it is what is tested; what it comes to is looked at.
	if err := informer.SetWatchErrorHandlerWithContext(func(context.Context, *cache.Reflector, error) {}); err != nil {
		r.history.Fail("informer %s: %v", name, err)
		return
	}
	running, stop := context.WithCancel(ctx)
	factory.StartWithContext(running)
	defer factory.Shutdown()
	defer stop()
	for {
		revision, _ := strconv.ParseInt(informer.LastSyncResourceVersion(), 10, 64)
		if r.settled(revision) && informer.HasSynced() {
			r.informed(ctx, name, informer.GetStore(), revision)
			return
		}
		select {
		case <-ctx.Done():
			r.history.Fail("informer %s reached %d, and the last write at %d did not come in time", name, revision, r.last.Load())
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// informed records what an informer has. It knows the revision before the
// handlers of the store have it, so that it waits for the object of the last
// write.
func (r *run) informed(ctx context.Context, name string, store cache.Store, revision int64) {
	key := r.Namespace + "/" + (&client{}).key(0)
	for ctx.Err() == nil {
		if o, ok, _ := store.GetByKey(key); ok && o.(metav1.Object).GetResourceVersion() == strconv.FormatInt(r.last.Load(), 10) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	objects := make(map[string]history.Object)
	for _, o := range store.List() {
		c := o.(*corev1.ConfigMap)
		at, err := strconv.ParseInt(c.ResourceVersion, 10, 64)
		if err != nil {
			r.history.Fail("informer %s: %v", name, err)
			return
		}
		objects[c.Name] = history.Object{Revision: at, UID: string(c.UID), Content: history.NewContent(c.Data)}
	}
	r.history.AddInformer(history.Informer{Name: name, Objects: objects, Revision: revision})
}
