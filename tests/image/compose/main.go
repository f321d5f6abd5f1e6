// Loads compose files as Docker Compose does (schema, merges, references between services, networks, volumes and
// secrets), and says what it found. It starts nothing and needs no Docker.
package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/compose-spec/compose-go/v2/cli"
)

func main() {
	options, err := cli.NewProjectOptions(os.Args[1:], cli.WithResolvedPaths(true))
	if err != nil {
		fail(err)
	}
	project, err := options.LoadProject(context.Background())
	if err != nil {
		fail(err)
	}
	names := project.ServiceNames()
	sort.Strings(names)
	for _, service := range project.Services {
		if service.Build == nil {
			continue
		}
		// The loader takes any text for these: a name that leads nowhere would be found by Docker alone.
		if _, err := os.Stat(filepath.Join(service.Build.Context, service.Build.Dockerfile)); err != nil {
			fail(err)
		}
	}
	fmt.Printf("compose: %s: %s\n", project.Name, strings.Join(names, ", "))
}

func fail(err error) {
	fmt.Fprintf(os.Stderr, "compose: %v\n", err)
	os.Exit(1)
}
