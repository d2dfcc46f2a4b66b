// Package inprocess makes the informers of components that share a process with
// the API server. They hold the objects that the server's store holds: there is
// one copy of each, and a change reaches them without being encoded.
//
// So nobody may change what a lister or a handler gives, as with all informers;
// here it would change what everybody reads. Tests of package apiservertest
// fail then (store.Config.Changed).
package inprocess

import (
	"fmt"
	"reflect"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/informers/admissionregistration"
	"k8s.io/client-go/informers/apiserverinternal"
	"k8s.io/client-go/informers/apps"
	"k8s.io/client-go/informers/autoscaling"
	"k8s.io/client-go/informers/batch"
	"k8s.io/client-go/informers/certificates"
	"k8s.io/client-go/informers/coordination"
	"k8s.io/client-go/informers/core"
	"k8s.io/client-go/informers/discovery"
	"k8s.io/client-go/informers/events"
	"k8s.io/client-go/informers/extensions"
	"k8s.io/client-go/informers/flowcontrol"
	"k8s.io/client-go/informers/internalinterfaces"
	"k8s.io/client-go/informers/networking"
	"k8s.io/client-go/informers/node"
	"k8s.io/client-go/informers/policy"
	"k8s.io/client-go/informers/rbac"
	"k8s.io/client-go/informers/resource"
	"k8s.io/client-go/informers/scheduling"
	"k8s.io/client-go/informers/storage"
	"k8s.io/client-go/informers/storagemigration"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/cache"

	"github.com/skiff-k8s/skiff/apiserver"
)

// Informers makes a factory whose informers list and watch s as u, and never
// resync. client, which reaches s too, is for kinds that s does not serve: their
// informers ask it, as those of any factory do. agent names the component in
// logs.
func Informers(s *apiserver.Server, u user.Info, agent string, client kubernetes.Interface) informers.SharedInformerFactory {
	f := &factory{
		SharedInformerFactory: informers.NewSharedInformerFactory(client, 0),
		sources:               make(map[reflect.Type]apiserver.Source),
		types:                 make(map[schema.GroupVersionResource]runtime.Object),
	}
	for _, r := range s.Resources() {
		if r.Custom != nil || !scheme.Scheme.Recognizes(r.GVK()) {
			continue
		}
		obj := r.New()
		f.sources[reflect.TypeOf(obj)] = s.Source(u, agent, r.GVR())
		f.types[r.GVR()] = obj
	}
	return f
}

// factory has its informers kept, started and awaited by the embedded one, which
// makes none itself: it keeps those that are there.
type factory struct {
	informers.SharedInformerFactory
	sources map[reflect.Type]apiserver.Source
	types   map[schema.GroupVersionResource]runtime.Object
}

// InformerFor implements informers.SharedInformerFactory.
func (f *factory) InformerFor(obj runtime.Object, other internalinterfaces.NewInformerFunc) cache.SharedIndexInformer {
	source, ok := f.sources[reflect.TypeOf(obj)]
	if !ok {
		return f.SharedInformerFactory.InformerFor(obj, other)
	}
	return f.SharedInformerFactory.InformerFor(obj, func(kubernetes.Interface, time.Duration) cache.SharedIndexInformer {
		return cache.NewSharedIndexInformer(source, obj, 0, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	})
}

// ForResource implements informers.SharedInformerFactory.
func (f *factory) ForResource(r schema.GroupVersionResource) (informers.GenericInformer, error) {
	if obj := f.types[r]; obj != nil {
		f.InformerFor(obj, nil) // the one that is there is found
	}
	generic, err := f.SharedInformerFactory.ForResource(r)
	if err != nil {
		return nil, fmt.Errorf("informer: %w", err)
	}
	return generic, nil
}

func (f *factory) Admissionregistration() admissionregistration.Interface {
	return admissionregistration.New(f, metav1.NamespaceAll, nil)
}

func (f *factory) Internal() apiserverinternal.Interface {
	return apiserverinternal.New(f, metav1.NamespaceAll, nil)
}

func (f *factory) Apps() apps.Interface { return apps.New(f, metav1.NamespaceAll, nil) }

func (f *factory) Autoscaling() autoscaling.Interface {
	return autoscaling.New(f, metav1.NamespaceAll, nil)
}

func (f *factory) Batch() batch.Interface { return batch.New(f, metav1.NamespaceAll, nil) }

func (f *factory) Certificates() certificates.Interface {
	return certificates.New(f, metav1.NamespaceAll, nil)
}

func (f *factory) Coordination() coordination.Interface {
	return coordination.New(f, metav1.NamespaceAll, nil)
}

func (f *factory) Core() core.Interface { return core.New(f, metav1.NamespaceAll, nil) }

func (f *factory) Discovery() discovery.Interface { return discovery.New(f, metav1.NamespaceAll, nil) }

func (f *factory) Events() events.Interface { return events.New(f, metav1.NamespaceAll, nil) }

func (f *factory) Extensions() extensions.Interface {
	return extensions.New(f, metav1.NamespaceAll, nil)
}

func (f *factory) Flowcontrol() flowcontrol.Interface {
	return flowcontrol.New(f, metav1.NamespaceAll, nil)
}

func (f *factory) Networking() networking.Interface {
	return networking.New(f, metav1.NamespaceAll, nil)
}

func (f *factory) Node() node.Interface { return node.New(f, metav1.NamespaceAll, nil) }

func (f *factory) Policy() policy.Interface { return policy.New(f, metav1.NamespaceAll, nil) }

func (f *factory) Rbac() rbac.Interface { return rbac.New(f, metav1.NamespaceAll, nil) }

func (f *factory) Resource() resource.Interface { return resource.New(f, metav1.NamespaceAll, nil) }

func (f *factory) Scheduling() scheduling.Interface {
	return scheduling.New(f, metav1.NamespaceAll, nil)
}

func (f *factory) Storage() storage.Interface { return storage.New(f, metav1.NamespaceAll, nil) }

func (f *factory) Storagemigration() storagemigration.Interface {
	return storagemigration.New(f, metav1.NamespaceAll, nil)
}
