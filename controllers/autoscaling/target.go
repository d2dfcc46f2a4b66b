package autoscaling

import (
	"context"
	"errors"
	"sync"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	scaleclient "k8s.io/client-go/scale"
	"k8s.io/client-go/util/retry"
)

// rediscover is after how long the kinds that are served are asked for again. A kind that is not known is asked for
// at once.
const rediscover = 30 * time.Second

// errNoResource says that a kind that is known has no resource.
var errNoResource = errors.New("unrecognized resource")

// targets are what can be scaled: every kind with a subresource scale, custom ones included.
type targets struct {
	scales scaleclient.ScalesGetter
	mapper *restmapper.DeferredDiscoveryRESTMapper
	reset  []func() // forget what was discovered

	mu   sync.Mutex
	last time.Time
}

func newTargets(d Deps) (*targets, error) {
	discovery := d.Client.Discovery()
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(discovery))
	scales, err := scaleclient.NewForConfig(inJSON(d.API), mapper, dynamic.LegacyAPIPathResolverFunc, scaleclient.NewDiscoveryScaleKindResolver(discovery))
	if err != nil {
		return nil, err
	}
	return &targets{scales: scales, mapper: mapper, reset: []func(){mapper.Reset}}, nil
}

// requestTimeout is how long a server of metrics may take.
const requestTimeout = 30 * time.Second

// inJSON is a configuration for clients of kinds that may have no other form.
func inJSON(c *rest.Config) *rest.Config {
	c = rest.CopyConfig(c)
	c.ContentConfig = rest.ContentConfig{ContentType: "application/json"}
	c.Timeout = requestTimeout
	return c
}

// fresh forgets what was discovered some time ago.
func (t *targets) fresh(now bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !now && time.Since(t.last) < rediscover {
		return
	}
	t.last = time.Now()
	for _, reset := range t.reset {
		reset()
	}
}

// scale is the scale of the target of an autoscaler, and what kind it is the scale of.
func (t *targets) scale(ctx context.Context, a *autoscalingv2.HorizontalPodAutoscaler) (schema.GroupResource, *autoscalingv1.Scale, error) {
	ref := a.Spec.ScaleTargetRef
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return schema.GroupResource{}, nil, err
	}
	mappings, err := t.mappings(schema.GroupKind{Group: gv.Group, Kind: ref.Kind})
	if err != nil {
		return schema.GroupResource{}, nil, err
	}
	first := errNoResource
	for i, mapping := range mappings {
		resource := mapping.Resource.GroupResource()
		scale, err := t.scales.Scales(a.Namespace).Get(ctx, resource, ref.Name, metav1.GetOptions{})
		if err == nil {
			return resource, scale, nil
		}
		if i == 0 {
			first = err
		}
	}
	return schema.GroupResource{}, nil, first
}

func (t *targets) mappings(kind schema.GroupKind) ([]*meta.RESTMapping, error) {
	t.fresh(false)
	mappings, err := t.mapper.RESTMappings(kind)
	if !meta.IsNoMatchError(err) {
		return mappings, err
	}
	t.fresh(true)
	return t.mapper.RESTMappings(kind)
}

// resize sets a scale. When somebody else changed it meanwhile, it is read again.
func (t *targets) resize(ctx context.Context, resource schema.GroupResource, scale *autoscalingv1.Scale, replicas int32) error {
	scales := t.scales.Scales(scale.Namespace)
	return retry.RetryOnConflict(retry.DefaultRetry, func() error {
		scale.Spec.Replicas = replicas
		_, err := scales.Update(ctx, resource, scale, metav1.UpdateOptions{})
		if err == nil {
			return nil
		}
		if now, failed := scales.Get(ctx, resource, scale.Name, metav1.GetOptions{}); failed == nil {
			scale = now
		}
		return err
	})
}
