package apiserver_test

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
)

// client is a typed client in an encoding.
func client(t testing.TB, config *rest.Config, media string) *kubernetes.Clientset {
	t.Helper()
	config = rest.CopyConfig(config)
	config.ContentType, config.AcceptContentTypes = media, media
	c, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

const (
	inJSON     = "application/json"
	inProtobuf = "application/vnd.kubernetes.protobuf"
)

func TestTypedClient(t *testing.T) {
	s := apiservertest.Start(t, nil)
	for _, media := range []string{inJSON, inProtobuf} {
		t.Run(media, func(t *testing.T) {
			c := client(t, apiservertest.Config(s, "admin"), media).CoreV1().ConfigMaps("default")
			ctx := t.Context()
			name := "typed-" + media[len(media)-4:]
			w, err := c.Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
			if err != nil {
				t.Fatalf("watch: %v", err)
			}
			defer w.Stop()
			made, err := c.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: map[string]string{"a": "b"}}, metav1.CreateOptions{})
			if err != nil {
				t.Fatalf("create: %v", err)
			}
			if made.UID == "" || made.ResourceVersion == "" || made.Data["a"] != "b" || len(made.ManagedFields) != 1 {
				t.Errorf("created %+v: incomplete", made)
			}
			got, err := c.Get(ctx, name, metav1.GetOptions{})
			if err != nil || got.ResourceVersion != made.ResourceVersion {
				t.Errorf("get = %v, %v; want resourceVersion %s", got, err, made.ResourceVersion)
			}
			list, err := c.List(ctx, metav1.ListOptions{})
			if err != nil || len(list.Items) == 0 || list.ResourceVersion == "" {
				t.Errorf("list = %v, %v; want at least one item", list, err)
			}
			if err := c.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
				t.Errorf("delete: %v", err)
			}
			for _, want := range []string{"ADDED", "DELETED"} {
				select {
				case e := <-w.ResultChan():
					if string(e.Type) != want || e.Object.(*corev1.ConfigMap).Data["a"] != "b" {
						t.Errorf("event = %s %v, want %s of it", e.Type, e.Object, want)
					}
				case <-time.After(10 * time.Second):
					t.Fatalf("no %s event", want)
				}
			}
		})
	}
}

var adminToken = map[string]user.Info{"admin-token": &user.DefaultInfo{Name: "admin", Groups: []string{user.SystemPrivilegedGroup}}}
