package authn

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

var errNotStarted = errors.New("service account tokens cannot be checked before the server has started")

var errInvalidated = errors.New("service account token has been invalidated")

// checkBinding looks up what a token is bound to. A token ends with the object
// it is bound to, after the same leeway that clocks are given.
func checkBinding(ctx context.Context, cluster resource.Cluster, b Binding, now time.Time) error {
	if cluster == nil {
		return errNotStarted
	}
	gone := func(obj resource.Object) bool {
		t := obj.GetDeletionTimestamp()
		return t != nil && t.Time.Before(now.Add(-jwt.DefaultLeeway))
	}
	account, err := cluster.Get(ctx, cluster.Resource("", "serviceaccounts"), b.Namespace, b.ServiceAccount.Name)
	if err != nil {
		return err
	}
	if uid := string(account.GetUID()); uid != b.ServiceAccount.UID {
		return fmt.Errorf("service account UID (%s) does not match claim (%s)", uid, b.ServiceAccount.UID)
	}
	if gone(account) {
		return fmt.Errorf("service account %s/%s has been deleted", b.Namespace, b.ServiceAccount.Name)
	}

	for _, bound := range b.objects() {
		obj, err := cluster.Get(ctx, cluster.Resource("", bound.plural), bound.namespace, bound.Name)
		if err != nil {
			return errInvalidated
		}
		if uid := string(obj.GetUID()); uid != bound.UID {
			return fmt.Errorf("%s UID (%s) does not match service account %s ref claim (%s)", bound.kind, uid, bound.kind, bound.UID)
		}
		if gone(obj) {
			return errInvalidated
		}
	}
	return nil
}

type boundObject struct {
	*Reference
	plural, namespace, kind string
}

// objects lists what must exist besides the service account. The node of a
// token bound to a pod is only information.
func (b Binding) objects() []boundObject {
	var list []boundObject
	if b.Secret != nil {
		list = append(list, boundObject{b.Secret, "secrets", b.Namespace, "secret"})
	}
	if b.Pod != nil {
		list = append(list, boundObject{b.Pod, "pods", b.Namespace, "pod"})
	}
	if b.Node != nil && b.Pod == nil {
		list = append(list, boundObject{b.Node, "nodes", "", "node"})
	}
	return list
}
