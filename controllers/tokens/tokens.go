// Package tokens keeps the Secrets of type kubernetes.io/service-account-token: tokens.go fills them and removes them
// with their service account, cleaner.go takes those away that were made without being asked for and that nobody
// uses.
package tokens

import (
	"bytes"
	"context"
	"crypto"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/retry"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
	"github.com/skiff-k8s/skiff/serviceaccount"
)

// Deps is what the controllers of this package are made of.
type Deps struct {
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory
	Workers   int
}

// accountIndex finds Secrets by the service account that they name.
const accountIndex = "serviceAccount"

// onlyTokens selects the Secrets that this package is about.
func onlyTokens(o *metav1.ListOptions) {
	o.FieldSelector = fields.OneTermEqualSelector("type", string(corev1.SecretTypeServiceAccountToken)).String()
}

// account is the service account that a Secret names.
type account struct {
	name string
	uid  types.UID // empty until the Secret was filled
}

func accountOf(secret *corev1.Secret) account {
	return account{secret.Annotations[corev1.ServiceAccountNameKey], types.UID(secret.Annotations[corev1.ServiceAccountUIDKey])}
}

// isOf tells whether a service account is the one that is named.
func (a account) isOf(sa *corev1.ServiceAccount) bool {
	return a.name == sa.Name && (a.uid == "" || a.uid == sa.UID)
}

// Tokens fills each Secret that is to hold a token of a service account with the token, the namespace and the
// certificate authority. It deletes the Secret when that account is not there, or is another of the same name, and
// takes a Secret that is gone off its account's list. It is woken by these Secrets, and by accounts that go.
func Tokens(d Deps, key crypto.Signer, rootCA []byte) (reconcile.Controller, error) {
	signer, err := serviceaccount.NewSigner(key)
	if err != nil {
		return reconcile.Controller{}, err
	}
	secrets := coreinformers.NewFilteredSecretInformer(d.Client, metav1.NamespaceAll, 0, cache.Indexers{
		cache.NamespaceIndex: cache.MetaNamespaceIndexFunc,
		accountIndex: func(obj any) ([]string, error) {
			secret := obj.(*corev1.Secret)
			return []string{secret.Namespace + "/" + accountOf(secret).name}, nil
		},
	}, onlyTokens)
	accounts := d.Informers.Core().V1().ServiceAccounts()
	c := &filler{
		client: d.Client, signer: signer, rootCA: rootCA,
		index: secrets.GetIndexer(), secrets: corelisters.NewSecretLister(secrets.GetIndexer()), accounts: accounts.Lister(),
		gone: map[reconcile.Key]account{},
	}
	return reconcile.Controller{
		Name:    "ServiceAccountTokens",
		Workers: d.Workers,
		Watch: []reconcile.Source{
			reconcile.Own(secrets),
			reconcile.On(secrets, c.secretChanged),
			reconcile.On(accounts.Informer(), c.accountChanged),
		},
		Sync: c.sync,
	}, nil
}

type filler struct {
	client   kubernetes.Interface
	signer   jose.Signer
	rootCA   []byte
	index    cache.Indexer
	secrets  corelisters.SecretLister
	accounts corelisters.ServiceAccountLister

	mu   sync.Mutex
	gone map[reconcile.Key]account // Secrets that are gone, until their accounts do not list them any more
}

func (c *filler) secretChanged(old, secret *corev1.Secret) []reconcile.Key {
	if secret != nil {
		return []reconcile.Key{reconcile.KeyOf(secret)}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gone[reconcile.KeyOf(old)] = accountOf(old)
	return []reconcile.Key{reconcile.KeyOf(old)}
}

// accountChanged names the Secrets of an account that is gone. One that comes changes nothing: a Secret that named it
// before was deleted, and is to be made again.
func (c *filler) accountChanged(old, sa *corev1.ServiceAccount) []reconcile.Key {
	if sa != nil {
		return nil
	}
	objs, err := c.index.ByIndex(accountIndex, old.Namespace+"/"+old.Name)
	if err != nil {
		return nil
	}
	var keys []reconcile.Key
	for _, obj := range objs {
		keys = append(keys, reconcile.KeyOf(obj.(*corev1.Secret)))
	}
	return keys
}

func (c *filler) sync(ctx context.Context, key reconcile.Key) (time.Duration, error) {
	secret, err := c.secrets.Secrets(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		return 0, c.unlist(ctx, key)
	}
	if err != nil {
		return 0, err
	}
	c.isBack(key)
	named := accountOf(secret)
	if named.name == "" || secret.DeletionTimestamp != nil {
		return 0, nil
	}
	sa, err := c.account(ctx, key.Namespace, named)
	if err != nil {
		return 0, fmt.Errorf("read service account %s/%s: %w", key.Namespace, named.name, err)
	}
	if sa == nil {
		return 0, c.remove(ctx, secret)
	}
	return 0, c.fill(ctx, secret, sa)
}

// account finds the service account that is named, nil if it is not there. It asks the server before it says so: a
// Secret may be seen before the account that was made just before it.
func (c *filler) account(ctx context.Context, namespace string, named account) (*corev1.ServiceAccount, error) {
	if cached, err := c.accounts.ServiceAccounts(namespace).Get(named.name); err == nil && named.isOf(cached) {
		return cached, nil
	}
	sa, err := c.client.CoreV1().ServiceAccounts(namespace).Get(ctx, named.name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && !named.isOf(sa) {
		return nil, nil
	}
	return sa, err
}

// remove deletes exactly this Secret.
func (c *filler) remove(ctx context.Context, secret *corev1.Secret) error {
	err := c.client.CoreV1().Secrets(secret.Namespace).Delete(ctx, secret.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(secret.UID))})
	if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return fmt.Errorf("delete secret: %w", err)
}

// fill puts into a Secret what it lacks. If the Secret is not what the cache shows any more, its change wakes us.
func (c *filler) fill(ctx context.Context, cached *corev1.Secret, sa *corev1.ServiceAccount) error {
	secret, changed, err := c.filled(cached, sa)
	if err != nil || !changed {
		return err
	}
	_, err = c.client.CoreV1().Secrets(secret.Namespace).Update(ctx, secret, metav1.UpdateOptions{})
	if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return fmt.Errorf("fill secret: %w", err)
}

// filled is a Secret with all that it should hold. A token that is there stays.
func (c *filler) filled(secret *corev1.Secret, sa *corev1.ServiceAccount) (_ *corev1.Secret, changed bool, err error) {
	secret = secret.DeepCopy()
	if secret.Data == nil {
		secret.Data = map[string][]byte{}
	}
	if len(c.rootCA) > 0 && !bytes.Equal(secret.Data[corev1.ServiceAccountRootCAKey], c.rootCA) {
		secret.Data[corev1.ServiceAccountRootCAKey], changed = c.rootCA, true
	}
	if len(secret.Data[corev1.ServiceAccountNamespaceKey]) == 0 {
		secret.Data[corev1.ServiceAccountNamespaceKey], changed = []byte(secret.Namespace), true
	}
	if len(secret.Data[corev1.ServiceAccountTokenKey]) == 0 {
		token, err := serviceaccount.SignLegacy(c.signer, sa, secret.Name)
		if err != nil {
			return nil, false, err
		}
		secret.Data[corev1.ServiceAccountTokenKey], changed = []byte(token), true
	}
	metav1.SetMetaDataAnnotation(&secret.ObjectMeta, corev1.ServiceAccountNameKey, sa.Name)
	metav1.SetMetaDataAnnotation(&secret.ObjectMeta, corev1.ServiceAccountUIDKey, string(sa.UID))
	return secret, changed, nil
}

// unlist takes a Secret that is gone off the list of its account.
func (c *filler) unlist(ctx context.Context, key reconcile.Key) error {
	c.mu.Lock()
	named, known := c.gone[key]
	c.mu.Unlock()
	if !known || named.name == "" {
		return nil
	}
	client := c.client.CoreV1().ServiceAccounts(key.Namespace)
	listed := func(ref corev1.ObjectReference) bool { return ref.Name == key.Name }
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		sa, err := client.Get(ctx, named.name, metav1.GetOptions{})
		if err != nil || !named.isOf(sa) || !slices.ContainsFunc(sa.Secrets, listed) {
			return err
		}
		sa.Secrets = slices.DeleteFunc(sa.Secrets, listed)
		_, err = client.Update(ctx, sa, metav1.UpdateOptions{})
		return err
	})
	if reconcile.IgnoreNotFound(err) != nil {
		return fmt.Errorf("take secret off service account %s/%s: %w", key.Namespace, named.name, err)
	}
	c.isBack(key)
	return nil
}

// isBack forgets that a Secret was gone.
func (c *filler) isBack(key reconcile.Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.gone, key)
}
