// Reads the files of deploy/ as the tools that people run them with do, and prints what these make of them as JSON.
//
// usage: deploy dockerfile FILE | compose FILE | kustomize FOLDER
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

func main() {
	if len(os.Args) != 3 {
		fail(fmt.Errorf("usage: deploy dockerfile FILE | compose FILE | kustomize FOLDER"))
	}
	readers := map[string]func(string) (any, error){"dockerfile": dockerfile, "compose": compose, "kustomize": kustomize}
	read, known := readers[os.Args[1]]
	if !known {
		fail(fmt.Errorf("nothing reads a %s", os.Args[1]))
	}
	found, err := read(os.Args[2])
	if err != nil {
		fail(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(found); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// Stages in order, each with its base and its instructions: name, and words as they stand.
func dockerfile(path string) (any, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	parsed, err := parser.Parse(file)
	if err != nil {
		return nil, err
	}
	stages, _, err := instructions.Parse(parsed.AST, nil)
	if err != nil {
		return nil, err
	}
	type step struct {
		Name string `json:"name"`
		Text string `json:"text"`
	}
	type stage struct {
		Base  string `json:"base"`
		Name  string `json:"name"`
		Steps []step `json:"steps"`
	}
	found := []stage{}
	for _, from := range stages {
		read := stage{Base: from.BaseName, Name: from.Name, Steps: []step{}}
		for _, command := range from.Commands {
			text := fmt.Sprint(command)
			if shown, ok := command.(fmt.Stringer); ok {
				text = shown.String()
			}
			read.Steps = append(read.Steps, step{Name: command.Name(), Text: text})
		}
		found = append(found, read)
	}
	return found, nil
}

// The project as `docker compose config` has it: defaults filled in, checked against the Compose schema.
func compose(path string) (any, error) {
	options, err := cli.NewProjectOptions([]string{path}, cli.WithName("tutti"))
	if err != nil {
		return nil, err
	}
	return options.LoadProject(context.Background())
}

// The objects as `kustomize build` prints them.
func kustomize(folder string) (any, error) {
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), folder)
	if err != nil {
		return nil, err
	}
	objects := []map[string]any{}
	for _, resource := range built.Resources() {
		object, err := resource.Map()
		if err != nil {
			return nil, err
		}
		objects = append(objects, object)
	}
	return objects, nil
}
