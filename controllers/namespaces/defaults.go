package namespaces

import (
	"context"
	"fmt"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

const (
	defaultServiceAccount = "default"
	rootCAName            = "kube-root-ca.crt"
	rootCAKey             = "ca.crt"
	descriptionKey        = "kubernetes.io/description"
	rootCADescription     = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. " +
		"No other usage is guaranteed across distributions of Kubernetes clusters."
)

// ServiceAccount keeps a service account "default" in every active namespace. It is woken by the namespace and
// by a change of that account.
func ServiceAccount(d Deps) reconcile.Controller {
	namespaces := d.Informers.Core().V1().Namespaces()
	accounts := d.Informers.Core().V1().ServiceAccounts()
	s := &serviceAccounts{d.Client, namespaces.Lister(), accounts.Lister()}
	return reconcile.Controller{
		Name:    "ServiceAccount",
		Workers: d.Workers,
		Watch: []reconcile.Source{
			reconcile.Self(namespaces.Informer()),
			reconcile.On(accounts.Informer(), func(old, account *corev1.ServiceAccount) []reconcile.Key {
				if account != nil || old.Name != defaultServiceAccount {
					return nil // only its absence needs work
				}
				return []reconcile.Key{{Name: old.Namespace}}
			}),
		},
		Sync: s.sync,
	}
}

type serviceAccounts struct {
	client     kubernetes.Interface
	namespaces corelisters.NamespaceLister
	accounts   corelisters.ServiceAccountLister
}

func (s *serviceAccounts) sync(ctx context.Context, key reconcile.Key) (time.Duration, error) {
	if !active(s.namespaces, key.Name) {
		return 0, nil
	}
	if _, err := s.accounts.ServiceAccounts(key.Name).Get(defaultServiceAccount); !apierrors.IsNotFound(err) {
		return 0, err
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: defaultServiceAccount, Namespace: key.Name}}
	_, err := s.client.CoreV1().ServiceAccounts(key.Name).Create(ctx, account, metav1.CreateOptions{})
	return 0, unlessGone(err, "create service account default in %s", key.Name)
}

// RootCA keeps a ConfigMap kube-root-ca.crt with the certificate authority of the API server in every active
// namespace, as pods need it to trust the server. It is woken by the namespace and by a change of that map; it
// watches no other ConfigMap.
func RootCA(d Deps, pem []byte) reconcile.Controller {
	namespaces := d.Informers.Core().V1().Namespaces()
	informer := coreinformers.NewFilteredConfigMapInformer(d.Client, metav1.NamespaceAll, 0, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc},
		func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, rootCAName).String()
		})
	r := &rootCAs{d.Client, namespaces.Lister(), corelisters.NewConfigMapLister(informer.GetIndexer()), map[string]string{rootCAKey: string(pem)}}
	return reconcile.Controller{
		Name:    "RootCA",
		Workers: d.Workers,
		Watch: []reconcile.Source{
			reconcile.Own(informer),
			reconcile.Self(namespaces.Informer()),
			reconcile.On(informer, func(old, changed *corev1.ConfigMap) []reconcile.Key {
				if changed == nil {
					changed = old
				}
				return []reconcile.Key{{Name: changed.Namespace}}
			}),
		},
		Sync: r.sync,
	}
}

type rootCAs struct {
	client     kubernetes.Interface
	namespaces corelisters.NamespaceLister
	maps       corelisters.ConfigMapLister
	data       map[string]string
}

func (r *rootCAs) sync(ctx context.Context, key reconcile.Key) (time.Duration, error) {
	if !active(r.namespaces, key.Name) {
		return 0, nil
	}
	cached, err := r.maps.ConfigMaps(key.Name).Get(rootCAName)
	if apierrors.IsNotFound(err) {
		_, err := r.client.CoreV1().ConfigMaps(key.Name).Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Name: rootCAName, Namespace: key.Name, Annotations: map[string]string{descriptionKey: rootCADescription}},
			Data:       r.data,
		}, metav1.CreateOptions{})
		return 0, unlessGone(err, "create ConfigMap %s in %s", rootCAName, key.Name)
	}
	if err != nil {
		return 0, err
	}
	if maps.Equal(cached.Data, r.data) && cached.Annotations[descriptionKey] != "" {
		return 0, nil
	}
	updated := cached.DeepCopy()
	updated.Data = r.data
	metav1.SetMetaDataAnnotation(&updated.ObjectMeta, descriptionKey, rootCADescription)
	_, err = r.client.CoreV1().ConfigMaps(key.Name).Update(ctx, updated, metav1.UpdateOptions{})
	return 0, unlessGone(err, "update ConfigMap %s in %s", rootCAName, key.Name)
}

func active(namespaces corelisters.NamespaceLister, name string) bool {
	namespace, err := namespaces.Get(name)
	return err == nil && namespace.DeletionTimestamp == nil && namespace.Status.Phase != corev1.NamespaceTerminating
}

// unlessGone passes an error on unless it only says that the object is there already, or that the namespace is
// gone or going.
func unlessGone(err error, format string, args ...any) error {
	if err == nil || apierrors.IsNotFound(err) || apierrors.IsAlreadyExists(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil
	}
	return fmt.Errorf(format+": %w", append(args, err)...)
}
