package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	"google.golang.org/protobuf/types/known/structpb"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	upstream "k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apiserver/pkg/cel/mutation"
	"k8s.io/apiserver/pkg/cel/mutation/dynamic"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/schema"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
	"sigs.k8s.io/structured-merge-diff/v6/value"

	"github.com/skiff-k8s/skiff/apiserver/admission/matching"
	"github.com/skiff-k8s/skiff/apiserver/codec"
	"github.com/skiff-k8s/skiff/apiserver/expression"
	"github.com/skiff-k8s/skiff/apiserver/heavy"
	"github.com/skiff-k8s/skiff/apiserver/managedfields"
	"github.com/skiff-k8s/skiff/apiserver/resource"
)

// change evaluates one mutation of a policy and makes what it says of the object. Its error is one of the API if the
// failure policy has no say in it.
func (p *Policies) change(ctx context.Context, w *write, i *invocation, n int) error {
	v, err := w.about(i.row)
	if err != nil {
		return err
	}
	program := i.compiled()
	x := program.mutations[n]
	if err := x.Err(); err != nil {
		return err
	}
	result, _, err := program.compiler.About(w.with(v, i.param)).Value(ctx, x, expression.PolicyBudget())
	if err != nil {
		return err
	}
	view := w.view(i.row)
	before, err := view.Object(w.New)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	var after runtime.Object
	if i.mutating.Mutations[n].PatchType == admissionregistrationv1.PatchTypeJSONPatch {
		after, err = patched(ctx, view, before, result)
	} else {
		after, err = applied(ctx, view, before, result)
	}
	if err != nil || after == nil {
		return err
	}
	if obj, ok := after.(resource.Object); ok && !view.HasBody() {
		i.row.Default(obj)
	}
	w.changed()
	if err := view.Store(after); err != nil {
		return apierrors.NewInternalError(fmt.Errorf("failed to convert object: %w", err))
	}
	return nil
}

// patched is the object with a list of operations of JSON patch (RFC 6902) applied; nil if one of them tested for what is
// not so.
func patched(ctx context.Context, view matching.View, before runtime.Object, list ref.Val) (runtime.Object, error) {
	patch, size, err := operations(list)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(before)
	if err != nil {
		return nil, fmt.Errorf("failed to create JSON patch: %w", err)
	}
	made, err := view.Heavy.PatchJSON(ctx, patch, size, text)
	switch {
	case errors.Is(err, jsonpatch.ErrTestFailed):
		return nil, nil
	case isBusy(err):
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("JSON Patch: %v", err) // also if it is an error of the API: the failure policy decides
	}
	after, in := fresh(before), codec.Input{Kind: view.Kind()}
	if !view.HasBody() {
		in.Prune = view.Row.Pruner()
	}
	strict, err := codec.DecodePatched(made, in, after)
	if err == nil && len(strict) > 0 && in.Prune == nil {
		err = runtime.NewStrictDecodingError(strict)
	}
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	return after, nil
}

// isBusy reports whether work was not done for reasons that are not the policy's.
func isBusy(err error) bool {
	return apierrors.IsTimeout(err) || apierrors.IsTooManyRequests(err) || errors.Is(err, context.Canceled)
}

// fresh is an empty object of the type of obj.
func fresh(obj runtime.Object) runtime.Object {
	return reflect.New(reflect.TypeOf(obj).Elem()).Interface().(runtime.Object)
}

// operations are those of a list of JSONPatch, and how many bytes their values have.
func operations(list ref.Val) (patch jsonpatch.Patch, size int, err error) {
	items, ok := list.(traits.Lister)
	if !ok {
		return nil, 0, errors.New("type mismatch: JSONPatchType.expression should evaluate to array")
	}
	for it := items.Iterator(); it.HasNext() == types.True; {
		o, ok := it.Next().(*mutation.JSONPatchVal)
		if !ok {
			return nil, 0, errors.New("type mismatch: JSONPatchType.expression should evaluate to array of JSONPatch")
		}
		operation := jsonpatch.Operation{"op": quoted(o.Op), "path": quoted(o.Path)}
		if o.From != "" {
			operation["from"] = quoted(o.From)
		}
		if o.Val != nil {
			text, err := valueOf(o.Val)
			if err != nil {
				return nil, 0, err
			}
			operation["value"], size = &text, size+len(text)
		}
		patch = append(patch, operation)
	}
	return patch, size, nil
}

func quoted(text string) *json.RawMessage {
	b, err := json.Marshal(text)
	if err != nil {
		panic("policy: a string cannot be encoded: " + err.Error())
	}
	raw := json.RawMessage(b)
	return &raw
}

// valueOf is a value of CEL in JSON.
func valueOf(v ref.Val) (json.RawMessage, error) {
	if obj, ok := v.(*dynamic.ObjectVal); ok {
		if err := obj.CheckTypeNamesMatchFieldPathNames(); err != nil {
			return nil, fmt.Errorf("type mismatch: %w", err)
		}
	}
	native, err := v.ConvertToNative(reflect.TypeFor[*structpb.Value]())
	var text []byte
	if err == nil {
		text, err = json.Marshal(native)
	}
	if err != nil {
		return nil, fmt.Errorf("JSONPath valueExpression evaluated to a type that could not marshal to JSON: %w", err)
	}
	return text, nil
}

// applied is the object with a configuration merged into it, as by server-side apply, but that nobody owns what it sets.
func applied(ctx context.Context, view matching.View, before runtime.Object, configuration ref.Val) (runtime.Object, error) {
	obj, ok := configuration.(*dynamic.ObjectVal)
	if !ok {
		return nil, fmt.Errorf("unsupported return type from ApplyConfiguration expression: %v", configuration.Type())
	}
	if err := obj.CheckTypeNamesMatchFieldPathNames(); err != nil {
		return nil, fmt.Errorf("type mismatch: %w", err)
	}
	fields, ok := obj.Value().(map[string]any)
	if !ok {
		return nil, fmt.Errorf("invalid return type: %T", configuration)
	}
	patch := &unstructured.Unstructured{Object: fields}
	patch.SetGroupVersionKind(view.Kind())
	converter, err := managedfields.TypesOf(view.Row, codec.As(fresh(before), view.Kind()))
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	var after runtime.Object
	err = view.Heavy.Do(ctx, heavy.Fields(before)+heavy.Fields(fields), func() (err error) {
		after, err = merge(converter, before, patch)
		return err
	})
	switch {
	case isBusy(err):
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("error applying patch: %v", err)
	}
	into := fresh(before)
	if u, ok := into.(runtime.Unstructured); ok {
		u.SetUnstructuredContent(after.(*unstructured.Unstructured).Object)
		return into, nil
	}
	return into, runtime.DefaultUnstructuredConverter.FromUnstructured(after.(*unstructured.Unstructured).Object, into)
}

func merge(types upstream.TypeConverter, before runtime.Object, patch *unstructured.Unstructured) (runtime.Object, error) {
	changes, err := types.ObjectToTyped(patch)
	if err != nil {
		return nil, fmt.Errorf("failed to convert patch object to typed object: %w", err)
	}
	if found := atomics(nil, changes.Schema(), changes.TypeRef(), changes.AsValue()); len(found) > 0 {
		return nil, fmt.Errorf("invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: %v", strings.Join(found, ", "))
	}
	live, err := types.ObjectToTyped(before, typed.AllowDuplicates)
	if err != nil {
		return nil, fmt.Errorf("failed to convert original object to typed object: %w", err)
	}
	merged, err := live.Merge(changes)
	if err != nil {
		return nil, fmt.Errorf("failed to merge patch: %w", err)
	}
	after, err := types.TypedToObject(merged)
	if err != nil {
		return nil, fmt.Errorf("failed to convert typed object to object: %w", err)
	}
	return after, nil
}

// atomics are the places in a value that could only be replaced as a whole.
func atomics(at fieldpath.Path, s *schema.Schema, of schema.TypeRef, v value.Value) (found []string) {
	a, ok := s.Resolve(of)
	if !ok {
		return nil
	}
	if v.IsMap() && a.Map != nil {
		if a.Map.ElementRelationship == schema.Atomic {
			found = append(found, at.String())
		}
		v.AsMap().Iterate(func(key string, inner value.Value) bool {
			if f, ok := a.Map.FindField(key); ok {
				found = append(found, atomics(append(at, fieldpath.PathElement{FieldName: &key}), s, f.Type, inner)...)
			}
			return true
		})
	}
	if v.IsList() && a.List != nil {
		if a.List.ElementRelationship == schema.Atomic {
			found = append(found, at.String())
		}
		for i := range v.AsList().Length() {
			found = append(found, atomics(append(at, fieldpath.PathElement{Index: &i}), s, a.List.ElementType, v.AsList().At(i))...)
		}
	}
	return found
}
