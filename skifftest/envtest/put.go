package envtest

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/retry"
)

// client is for the objects of one kind that have no namespace.
type client struct {
	dynamic.ResourceInterface
	version schema.GroupVersion
	kind    string
}

// kinds are those that are installed.
var kinds = map[string]string{
	"customresourcedefinitions":       "CustomResourceDefinition",
	"mutatingwebhookconfigurations":   "MutatingWebhookConfiguration",
	"validatingwebhookconfigurations": "ValidatingWebhookConfiguration",
}

func clientOf(config *rest.Config, resource string, version schema.GroupVersion) (*client, error) {
	all, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	return &client{all.Resource(version.WithResource(resource)), version, kinds[resource]}, nil
}

// put creates an object, or has it take the place of the one with its name, and leaves in it what the server has.
func (c *client) put(ctx context.Context, object metav1.Object) error {
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
	if err != nil {
		return err
	}
	wanted := &unstructured.Unstructured{Object: content}
	wanted.SetGroupVersionKind(c.version.WithKind(c.kind))
	wanted.SetResourceVersion("")
	made, err := c.Create(ctx, wanted, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		err = retry.RetryOnConflict(retry.DefaultBackoff, func() error {
			there, err := c.Get(ctx, wanted.GetName(), metav1.GetOptions{})
			if err != nil {
				return err
			}
			wanted.SetResourceVersion(there.GetResourceVersion())
			made, err = c.Update(ctx, wanted, metav1.UpdateOptions{})
			return err
		})
	}
	if err != nil {
		return err
	}
	return runtime.DefaultUnstructuredConverter.FromUnstructured(made.Object, object)
}
