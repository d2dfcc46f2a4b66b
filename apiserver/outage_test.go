package apiserver_test

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
	"github.com/skiff-k8s/skiff/apiserver/backend/databases"
	"github.com/skiff-k8s/skiff/apiserver/backend/engines"
)

// While the database is away, reads of what the cache has go on, the others and
// writes fail with an error of the server, and watches stay open. When it is
// back all goes on, without a restart.
func TestOutage(t *testing.T) {
	for name, database := range map[string]*databases.Server{"postgres": databases.NewPostgres(t), "mysql": databases.NewMariaDB(t)} {
		t.Run(name, func(t *testing.T) { testOutage(t, database) })
	}
}

func testOutage(t *testing.T, database *databases.Server) {
	storage, err := engines.Open(database.Database(t))
	if err != nil {
		t.Fatal(err)
	}
	s := apiservertest.Start(t, func(o *apiserver.Options) { o.Backend = storage })
	client, err := kubernetes.NewForConfig(apiservertest.Config(s, "test"))
	if err != nil {
		t.Fatal(err)
	}
	maps := client.CoreV1().ConfigMaps("default")
	ctx := t.Context()
	make := func(name string) error {
		_, err := maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		return err
	}
	if err := make("before"); err != nil {
		t.Fatal(err)
	}
	events, err := maps.Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer events.Stop()
	database.Kill(t)
	if err := make("during"); !apierrors.IsInternalError(err) && !apierrors.IsServiceUnavailable(err) {
		t.Errorf("create: got %v, want an error of the server", err)
	}
	if _, err := maps.List(ctx, metav1.ListOptions{}); !apierrors.IsInternalError(err) && !apierrors.IsServiceUnavailable(err) {
		t.Errorf("consistent list: got %v, want an error of the server", err)
	}
	if list, err := maps.List(ctx, metav1.ListOptions{ResourceVersion: "0"}); err != nil || len(list.Items) == 0 {
		t.Errorf("list at resourceVersion 0: got %d objects, %v, want what the cache has", len(list.Items), err)
	}
	if _, err := maps.Get(ctx, "before", metav1.GetOptions{ResourceVersion: "0"}); err != nil {
		t.Errorf("get at resourceVersion 0: %v", err)
	}
	database.Start(t)
	if err := make("after"); err != nil {
		t.Errorf("create when the database is back: %v", err)
	}
	if err := waitFor(events, "after"); err != nil {
		t.Errorf("watch: %v", err)
	}
}

// waitFor reads events until one is of an object of a name.
func waitFor(events watch.Interface, name string) error {
	late := time.After(30 * time.Second)
	for {
		select {
		case e, ok := <-events.ResultChan():
			if !ok {
				return fmt.Errorf("it ended before %s", name)
			}
			if object, ok := e.Object.(*corev1.ConfigMap); ok && object.Name == name {
				return nil
			}
		case <-late:
			return fmt.Errorf("no event of %s", name)
		}
	}
}
