package apiserver_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/memory"
)

// TestNothingComesIntoANamespaceThatEnds makes objects while their namespace is deleted. What is asked for after the answer to
// the delete is refused.
func TestNothingComesIntoANamespaceThatEnds(t *testing.T) {
	const creators, more = 8, 20
	c := clientset(t, apiservertest.Config(apiservertest.Start(t, nil), "admin"))
	must(t)(c.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ends"}}, metav1.CreateOptions{}))
	var deleted atomic.Bool
	var made atomic.Int64
	var all sync.WaitGroup
	for i := range creators {
		all.Go(func() {
			for n, after := 0, 0; after < more; n++ {
				over := deleted.Load()
				_, err := c.CoreV1().ConfigMaps("ends").Create(t.Context(), configMap(fmt.Sprintf("c-%d-%d", i, n)), metav1.CreateOptions{})
				if err == nil {
					made.Add(1)
				}
				if over {
					after++
				}
				if over && err == nil {
					t.Errorf("creator %d makes an object after the namespace has begun to end", i)
					return
				}
			}
		})
	}
	for made.Load() < creators {
		if _, err := c.CoreV1().Namespaces().Get(t.Context(), "ends", metav1.GetOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.CoreV1().Namespaces().Delete(t.Context(), "ends", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	deleted.Store(true)
	all.Wait()
}

// TestTokensEndWithWhatTheyAreBoundTo shows each token again when the object that it is bound to is gone, and when there is
// another one of its name.
func TestTokensEndWithWhatTheyAreBoundTo(t *testing.T) {
	s := apiservertest.Start(t, nil)
	c := clientset(t, apiservertest.Config(s, "admin"))
	address := serve(t, s)
	must(t)(c.CoreV1().ServiceAccounts("default").Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}))
	meta := metav1.ObjectMeta{Name: "bound"}
	for kind, object := range map[string]struct{ create, remove func() error }{
		"Pod": {func() error {
			_, err := c.CoreV1().Pods("default").Create(t.Context(), &corev1.Pod{ObjectMeta: meta, Spec: deploymentOf("i").Spec.Template.Spec}, metav1.CreateOptions{})
			return err
		}, func() error {
			return c.CoreV1().Pods("default").Delete(t.Context(), meta.Name, *metav1.NewDeleteOptions(0))
		}},
		"Secret": {func() error {
			_, err := c.CoreV1().Secrets("default").Create(t.Context(), &corev1.Secret{ObjectMeta: meta}, metav1.CreateOptions{})
			return err
		}, func() error {
			return c.CoreV1().Secrets("default").Delete(t.Context(), meta.Name, metav1.DeleteOptions{})
		}},
		"Node": {func() error {
			_, err := c.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: meta}, metav1.CreateOptions{})
			return err
		}, func() error { return c.CoreV1().Nodes().Delete(t.Context(), meta.Name, metav1.DeleteOptions{}) }},
	} {
		t.Run(kind, func(t *testing.T) {
			must(t)(nil, object.create())
			request, err := c.CoreV1().ServiceAccounts("default").CreateToken(t.Context(), "default", &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
				BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: kind, Name: meta.Name},
			}}, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			code := func() int { code, _ := ask(t, address, request.Status.Token, "/version", nil); return code }
			if got := code(); got != http.StatusOK {
				t.Fatalf("while it is there: %d", got)
			}
			must(t)(nil, object.remove())
			if got := code(); got != http.StatusUnauthorized {
				t.Errorf("after it is gone: %d", got)
			}
			must(t)(nil, object.create())
			if got := code(); got != http.StatusUnauthorized {
				t.Errorf("with another one of its name: %d", got)
			}
		})
	}
}

// TestNodesMayNotAskKubelets asks, as a kubelet does that is asked, whether another node may have what it serves.
func TestNodesMayNotAskKubelets(t *testing.T) {
	s := apiservertest.Start(t, nil)
	node := clientset(t, apiservertest.Config(s, "system:node:n1", user.NodesGroup))
	for _, name := range []string{"n1", "n2"} {
		for _, sub := range []string{"proxy", "stats", "metrics", "log", "pods", "healthz", "configz", "spec", "checkpoint"} {
			for _, verb := range []string{"get", "create", "delete"} {
				review, err := node.AuthorizationV1().SelfSubjectAccessReviews().Create(t.Context(), &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
					ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: verb, Version: "v1", Resource: "nodes", Subresource: sub, Name: name},
				}}, metav1.CreateOptions{})
				if err != nil || review.Status.Allowed {
					t.Errorf("node n1 may %s nodes/%s of %s: %v", verb, sub, name, err)
				}
			}
		}
	}
}

// overtaken has others remove objects of a prefix just before they are removed.
type overtaken struct {
	backend.Backend
	prefix  string
	removed atomic.Int64
}

func (o *overtaken) Delete(ctx context.Context, key string, expected int64) (int64, error) {
	if !strings.HasPrefix(key, o.prefix) {
		return o.Backend.Delete(ctx, key, expected)
	}
	o.removed.Add(1)
	if _, err := o.Backend.Delete(ctx, key, expected); err != nil {
		return 0, err
	}
	return 0, backend.ErrConflict
}

// TestDeleteOvertaken deletes a pod that runs nowhere. Who collects garbage sees that it is marked, and may be sooner: it is
// deleted all the same. The delete of what has never been marked says that it is not there.
func TestDeleteOvertaken(t *testing.T) {
	o := &overtaken{Backend: memory.New(), prefix: "/registry/pods/"}
	c := clientset(t, apiservertest.Config(apiservertest.Start(t, func(options *apiserver.Options) { options.Backend = o }), "admin"))
	must(t)(c.CoreV1().ServiceAccounts("default").Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}))
	must(t)(c.CoreV1().Pods("default").Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "gone"}, Spec: deploymentOf("i").Spec.Template.Spec}, metav1.CreateOptions{}))
	if err := c.CoreV1().Pods("default").Delete(t.Context(), "gone", *metav1.NewDeleteOptions(0)); err != nil {
		t.Errorf("overtaken: %v", err)
	}
	if n := o.removed.Load(); n != 1 {
		t.Fatalf("the pod was removed %d times", n)
	}
	if err := c.CoreV1().Pods("default").Delete(t.Context(), "gone", *metav1.NewDeleteOptions(0)); !apierrors.IsNotFound(err) {
		t.Errorf("again: got %v", err)
	}
}
